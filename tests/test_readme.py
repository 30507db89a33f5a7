"""The README names nothing that is not there: commands, targets, arguments, bounds, links."""

import ast
import inspect
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from helpers.readme import EXAMPLES, README, ROOT

import paywall
from paywall import Node, Paywall, Wallet, alarms
from paywall.bounds import bounds
from paywall.cli import app as cli
from paywall.policy import Limits

MAKEFILE = (ROOT / "Makefile").read_text()


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that there is, with its group: "wallet new"."""
    root: Any = typer.main.get_command(cli)
    for name, command in root.commands.items():
        below = getattr(command, "commands", None)
        if below is None:
            yield name, command
        else:
            yield from ((f"{name} {one}", sub) for one, sub in below.items())


# -- Words ---------------------------------------------------------------------------------------


def test_every_command_that_is_named_exists_and_every_command_is_named() -> None:
    there = {name for name, _ in commands()}
    groups = {name.split()[0] for name in there if " " in name}
    named = set()
    for first, second in re.findall(r"`(?:\$ )?paywall ([a-z]+)(?: ([a-z]+))?", README):
        named.add(f"{first} {second}" if first in groups else first)
    assert named - there == set()
    assert there - named == set()


def test_every_option_that_is_named_is_an_option_of_some_command() -> None:
    there = {option for _, command in commands() for one in command.params for option in one.opts}
    text = re.sub(r"`make [^`]*`|ARGS=\S+", "", README)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))
    uvicorns = {"--loop", "--http"}
    assert named - there - uvicorns - {"--help"} == set()


def test_every_target_that_is_named_exists_and_every_target_is_named() -> None:
    there = set(re.findall(r"^([a-z-]+):[^\n=]*##", MAKEFILE, re.M))
    named = set(re.findall(r"[`$] ?make ([a-z-]+)", README))
    assert named - there == set()
    assert there - named == {"redis", "node", "chromium"}  # what others need


def test_every_link_inside_leads_to_a_heading_and_every_file_is_there() -> None:
    titles = re.findall(r"^#+ (.+)$", README, re.M)
    headings = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert {link for link in links if link[0] == "#" and link[1:] not in headings} == set()
    files = [link for link in links if not link.startswith(("#", "http"))]
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_the_short_list_of_limits_is_what_the_limits_are() -> None:
    listed = re.search(r"\| bound \| value \|\n\|---\|---\|\n((?:\|.*\n)+)", README)
    assert listed is not None
    told = [row.strip("|\n ").split(" | ") for row in listed[1].splitlines()]
    numbers = {row.name: row.value for row in bounds()}
    expected = {
        "requests in flight on one channel": "{MAX_HOLDS}",
        "vouchers in the window": "{WINDOW_VOUCHERS}",
        "a hold that nobody renews": "{HOLD_SECONDS} seconds",
        "a payment header": "{MAX_PAYMENT_HEADER_BYTES} bytes",
        "a body that a price depends on": "{MAX_PRICED_BODY_BYTES} bytes",
        "an answer that can be given again": "{MAX_ANSWER_BYTES} bytes, for {ANSWER_SECONDS} "
        "seconds",
        "the withdraw delay": "{MIN_WITHDRAW_DELAY_SECONDS} to {MAX_WITHDRAW_DELAY_SECONDS} "
        "seconds",
        "deposits and refunds of one payer without use": "{DEPOSITS_PER_HOUR} an hour",
        "the same of all payers together": "{ALL_DEPOSITS_PER_HOUR} an hour",
        "channels of one payer": "{CHANNELS_PER_PAYER}",
        "readings of the chain for strangers": "{STRANGER_READS_PER_SECOND} a second",
        "rows in one claim": "{MAX_CLAIM_ROWS}",
    }
    assert dict(told) == {what: text.format(**numbers) for what, text in expected.items()}


def test_every_alarm_has_a_row_that_says_what_helps_and_every_such_row_is_an_alarm() -> None:
    there = {kind.__name__ for kind in vars(alarms).values() if _is_alarm(kind)}
    (table,) = re.findall(r"\| alarm \| what is wrong \| what helps \|\n(.*?)\n\n", README, re.S)
    rows = re.findall(r"^\| `(\w+)` \| \S[^|]+ \| \S[^|]+ \|$", table, re.M)
    assert sorted(rows) == sorted(there)


def _is_alarm(kind: object) -> bool:
    is_one = isinstance(kind, type) and issubclass(kind, alarms.Alarm)
    return is_one and kind is not alarms.Alarm


def test_every_extra_that_is_named_exists_and_every_extra_is_named() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    there = set(project["optional-dependencies"])
    install = README[README.index("## Install") : README.index("## Limits")]
    assert set(re.findall(r"`\[(\w+)\]`", install)) == there


# -- Names ---------------------------------------------------------------------------------------


def parameters(called: object) -> set[str] | None:
    """The keyword arguments that something takes; None when it takes any."""
    if called is Wallet:
        return {*inspect.signature(Wallet).parameters, *Limits.__annotations__}
    told = inspect.signature(called).parameters  # type: ignore[arg-type]
    if any(one.kind is one.VAR_KEYWORD for one in told.values()):
        return None
    return set(told)


def said(node: ast.AST, known: dict[str, object]) -> object | None:
    """What of ours a call names, when it does."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return getattr(paywall, node.attr) if node.value.id == "paywall" else None
    return None


@pytest.mark.parametrize("text", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_names_what_exists_and_what_it_takes(text: str) -> None:
    tree = ast.parse(text)
    known: dict[str, object] = {name: getattr(paywall, name) for name in paywall.__all__}
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "paywall"
        for alias in node.names
    }
    assert imported - set(known) == set()
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        called = said(call.func, known)
        allowed = parameters(called) if callable(called) else None
        if allowed is not None:
            assert {word.arg for word in call.keywords if word.arg} - allowed == set()


def test_every_argument_that_the_text_names_is_an_argument_of_something() -> None:
    prose = re.sub(r"^```.*?^```", "", README, flags=re.S | re.M)
    named = set(re.findall(r"`(\w+)=", prose)) - {"ARGS", "SEED"}
    ours = [Paywall, Wallet, Node, paywall.Facilitator, paywall.free_first, paywall.pass_for]
    taken: set[str] = set()
    for one in ours:
        taken |= parameters(one) or set()
    assert named - taken - {"max_retries", "replicas"} == set()  # OpenAI's, a URL's
