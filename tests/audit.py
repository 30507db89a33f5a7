"""`python -m audit`, or `make audit`: what is installed, against the published advisories.

It is pip-audit's work, with the advisories of osv.dev. Exit status: 0 when nothing is known against
any package; 1 when something is, and each is named; 3 when the advisories could not be had, and
then nothing was examined.
"""

import json
import subprocess
import sys
from typing import Any, Final

AUDIT: Final = ("-s", "osv", "-f", "json", "--progress-spinner", "off", "--skip-editable")
SECONDS: Final = 600
CLEAN, FOUND, UNREACHABLE = 0, 1, 3


def verdict(output: str, complaint: str) -> tuple[list[str], int]:
    """What to say, and the exit status, from what pip-audit wrote to its two streams."""
    try:
        packages: list[dict[str, Any]] = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        why = (complaint.strip() or "it said nothing").splitlines()[-1][:300]
        return [f"not audited, the advisories could not be had: {why}"], UNREACHABLE
    skipped = [f"{one['name']}: {one['skip_reason']}" for one in packages if "skip_reason" in one]
    found = [
        f"{one['name']} {one['version']}: {flaw['id']}, mended in {_mended(flaw)}"
        for one in packages
        for flaw in one.get("vulns", ())
    ]
    audited = len(packages) - len(skipped)
    if not audited:
        return [*skipped, "not audited: no package was examined"], UNREACHABLE
    total = f"{audited} packages audited, {len(found)} advisories, {len(skipped)} not examined"
    return [*found, *skipped, total], FOUND if found else CLEAN


def _mended(flaw: dict[str, Any]) -> str:
    return ", ".join(flaw.get("fix_versions", ())) or "no version yet"


def main(arguments: list[str]) -> int:
    run = subprocess.run(
        [sys.executable, "-m", "pip_audit", *AUDIT, *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    said, status = verdict(run.stdout, run.stderr)
    print("\n".join(said))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
