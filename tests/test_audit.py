"""`make audit` never says that all is well when nothing was examined."""

import json

from audit import verdict

ALIVE = {"name": "alive", "version": "1.2", "vulns": []}
ILL = {
    "name": "ill",
    "version": "0.1",
    "vulns": [
        {"id": "GHSA-1", "fix_versions": ["0.2", "1.0"]},
        {"id": "GHSA-2", "fix_versions": []},
    ],
}
OURS = {"name": "paywall", "skip_reason": "distribution marked as editable"}


def told(*packages: object) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


def test_nothing_known_is_status_0_and_says_how_much_was_examined() -> None:
    assert verdict(told(ALIVE, OURS), "") == (
        [
            "paywall: distribution marked as editable",
            "1 packages audited, 0 advisories, 1 not examined",
        ],
        0,
    )


def test_each_advisory_is_named_with_what_mends_it() -> None:
    assert verdict(told(ALIVE, ILL), "Found 2 known vulnerabilities in 1 package") == (
        [
            "ill 0.1: GHSA-1, mended in 0.2, 1.0",
            "ill 0.1: GHSA-2, mended in no version yet",
            "2 packages audited, 2 advisories, 0 not examined",
        ],
        1,
    )


def test_advisories_that_cannot_be_had_are_one_sentence_and_status_3() -> None:
    trace = "Traceback …\n  File …\nrequests.exceptions.ConnectionError: no route to api.osv.dev\n"
    why = "requests.exceptions.ConnectionError: no route to api.osv.dev"
    said = f"not audited, the advisories could not be had: {why}"
    assert verdict("", trace) == ([said], 3)


def test_an_audit_of_nothing_is_none() -> None:
    said = ["paywall: distribution marked as editable", "not audited: no package was examined"]
    assert verdict(told(OURS), "") == (said, 3)
    assert verdict("[]", "")[1] == 3
