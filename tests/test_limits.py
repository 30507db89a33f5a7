"""The bounds as a table: every one has a unit and a meaning, and none is left out."""

import json

from typer.testing import CliRunner

from paywall.bounds import bounds
from paywall.cli import app
from paywall.protocol import limits


def test_every_bound_is_in_the_table_once_with_a_unit_and_a_sentence() -> None:
    rows = bounds()
    names = [row.name for row in rows]
    assert sorted(names) == sorted(name for name in vars(limits) if name.isupper())
    assert [row.name for row in rows if not row.meaning.endswith(".")] == []
    assert [row.name for row in rows if not row.unit or not row.about] == []


def test_units_are_the_ends_of_names() -> None:
    units = {row.name: row.unit for row in bounds()}
    assert units["MAX_PAYMENT_HEADER_BYTES"] == "bytes"
    assert units["HOLD_SECONDS"] == "seconds"
    assert units["STRANGER_READS_PER_SECOND"] == "reads per second"
    assert units["STRANGER_READS_AT_ONCE"] == "reads at once"
    assert units["CHANNELS_PER_PAYER"] == "channels per payer"
    assert units["MAX_FEE_PER_GAS_WEI"] == "wei"
    assert units["MAX_HOLDS"] == "holds"
    assert units["UINT128_MAX"] == "atomic units"


def test_the_command_prints_them_for_machines() -> None:
    told = json.loads(CliRunner().invoke(app, ["limits", "--json"]).stdout)
    header = next(row for row in told if row["name"] == "MAX_PAYMENT_HEADER_BYTES")
    assert header == {
        "about": "What a stranger may send to a provider",
        "name": "MAX_PAYMENT_HEADER_BYTES",
        "value": 16384,
        "unit": "bytes",
        "meaning": "A payment header longer than this is refused before it is decoded.",
    }
