"""The books: every charge has its row; files are exact and read back; what disagrees is named."""

import asyncio
import csv
import json
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import msgspec
import pyarrow.parquet
import pytest
from click.testing import Result
from helpers.channels import CHANNEL_ID, CONFIG, NETWORK, chain, voucher
from helpers.exact import PRICE as EXACT_PRICE
from helpers.exact import Signer, TransferLedger, shop
from helpers.provider import PRICE, Agent, answering, ask, buy, paying, provider
from helpers.servers import Provider
from helpers.servers import provider as served_provider
from typer.testing import CliRunner

import paywall
from paywall.asgi import Paywall
from paywall.chain.devnet import Devnet
from paywall.cli import app
from paywall.ledger import Difference, reconcile, rows
from paywall.ledger_files import (
    Target,
    archive,
    last_position,
    open_target,
    read_back,
    shown,
)
from paywall.protocol import ledger
from paywall.protocol.errors import ConfigurationError
from paywall.protocol.ledger import CHARGE, TRANSFER, Line, Row, row_of
from paywall.stores import Store, open_store
from paywall.stores.memory import MemoryStore

FOREVER = 2**53


async def rows_of(wall: Paywall) -> list[Row]:
    return [row async for row in rows(wall.gate.store)]


def row(amount: int = 5, **changes: object) -> Row:
    line = Line(CHARGE, str(amount), CHANNEL_ID, CONFIG.payer, "GET /a", "r", "9", NETWORK)
    return row_of("7", 1_800_000_000_123, ledger.encode(msgspec.structs.replace(line, **changes)))


# -- From the request ----------------------------------------------------------------------------


async def test_a_paid_request_is_a_row_that_says_all_of_it() -> None:
    wall = provider(answering())
    assert (await buy(wall, PRICE)).status == 200
    (told,) = await rows_of(wall)
    agent = Agent()
    assert (told.kind, told.amount, told.voucher) == (CHARGE, PRICE, PRICE)
    assert (told.payer, told.channel_id) == (agent.config.payer, agent.channel_id)
    assert (told.route, told.network, told.asset) == ("/priced", NETWORK, agent.config.token)
    assert told.request


async def test_what_was_not_charged_is_no_row() -> None:
    wall = provider(answering(status=500))
    assert (await buy(wall, PRICE)).status == 500
    assert (await ask(wall)).status == 402
    assert await rows_of(wall) == []


async def test_a_transfer_is_one_row_with_its_transaction() -> None:
    wall = shop(answering())
    header = Signer().pay("payment-0123456789ab")
    answers = [(await ask(wall, headers=paying(header))).status for _ in range(2)]
    assert answers == [200, 409], "it buys once"
    (told,) = await rows_of(wall)
    assert (told.kind, told.amount, told.voucher) == (TRANSFER, EXACT_PRICE, 0)
    assert (told.payer, told.channel_id) == (Signer().address, b"")
    assert len(told.transaction) == 32


async def test_a_transfer_that_is_found_mined_later_is_a_row_then() -> None:
    chain = TransferLedger()
    chain.give(Signer().address)
    chain.pending = True
    wall = shop(answering(), chain)
    header = Signer().pay()
    assert (await ask(wall, headers=paying(header))).status == 503
    assert await rows_of(wall) == []
    chain.mine(chain.sent[0])
    assert (await ask(wall, headers=paying(header))).status == 200
    (told,) = await rows_of(wall)
    assert (told.kind, told.amount) == (TRANSFER, EXACT_PRICE)


# -- Files ---------------------------------------------------------------------------------------


def test_a_row_in_json_is_read_back_as_it_was() -> None:
    for told in (row(), row(2**128 - 1), row(kind=TRANSFER, channel_id=b"", transaction=b"t" * 32)):
        assert read_back(msgspec.json.encode(shown(told))) == told


def test_time_is_told_in_utc_to_the_millisecond() -> None:
    assert shown(row()).time == "2027-01-15T08:00:00.123Z"


@pytest.mark.parametrize("damage", [b"{}\n", b"no json\n", b'{"time":5}\n'])
def test_a_line_that_is_no_row_is_named(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(msgspec.json.encode(shown(row())) + b"\n" + damage)
    with pytest.raises(ConfigurationError, match=r"ledger\.jsonl, line 2: no row of a ledger"):
        list(archive([path]))


def test_a_file_that_ends_in_a_line_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    assert last_position(path) == ""
    path.write_bytes(msgspec.json.encode(shown(row())) + b"\n")
    assert last_position(path) == "7"
    path.write_bytes(path.read_bytes() + b'{"time":')
    with pytest.raises(ConfigurationError, match="ends in the middle of a line"):
        last_position(path)


# -- What disagrees ------------------------------------------------------------------------------


async def charged(store: Store, amount: int, line: int | None = None) -> None:
    """One charge; its row says `line`."""
    await store.record(CHANNEL_ID, NETWORK, CONFIG, chain(10_000), 0)
    known = await store.channel(CHANNEL_ID)
    assert known is not None
    await store.reserve(CHANNEL_ID, voucher(known.charged + amount), amount, f"r{known.charged}")
    told = ledger.encode(Line(CHARGE, str(amount if line is None else line), CHANNEL_ID))
    await store.charge(CHANNEL_ID, f"r{known.charged}", amount, None, b"", told)


async def test_books_that_agree_have_no_difference() -> None:
    store = MemoryStore()
    for amount in (5, 7, 11):
        await charged(store, amount)
    sums = await reconcile(store)
    assert (sums.rows, sums.charged, sums.unclaimed, sums.channels) == (3, 23, 23, 1)
    assert sums.differences == []


async def test_a_difference_that_was_planted_is_found_to_the_unit() -> None:
    store = MemoryStore()
    await charged(store, 5)
    await charged(store, 7, line=9)
    where = "0x" + CHANNEL_ID.hex()
    assert (await reconcile(store)).differences == [
        Difference(where, "rows of the ledger against what was charged", 2)
    ]


async def test_rows_of_a_channel_that_is_gone_are_named() -> None:
    store = MemoryStore()
    await charged(store, 5)
    store._records.clear()
    assert (await reconcile(store)).differences == [
        Difference("0x" + CHANNEL_ID.hex(), "rows of a channel that is not there", 5)
    ]


async def test_rows_that_were_trimmed_count_from_the_archive() -> None:
    store = MemoryStore()
    for amount in (5, 7, 11):
        await charged(store, amount)
    kept = await store.ledger("", FOREVER)
    await store.trim_ledger(kept[1].position)
    assert [one.amount for one in (await reconcile(store)).differences] == [-12]
    assert (await reconcile(store, archive=kept)).differences == [], "a row counts once"


async def test_requests_that_are_charged_meanwhile_are_no_difference() -> None:
    store = MemoryStore()
    await charged(store, 5)
    wonderful = store.channels

    async def busy(after: bytes = b"", limit: int = 1000) -> list[object]:
        if not after:
            await charged(store, 7)
        return list(await wonderful(after, limit))

    store.channels = busy  # type: ignore[method-assign, assignment]
    assert (await reconcile(store)).differences == []


# -- Commands ------------------------------------------------------------------------------------


async def invoke(*arguments: str) -> Result:
    """The commands have an event loop of their own, so they are run in another thread."""
    return await asyncio.to_thread(CliRunner().invoke, app, ["ledger", *arguments])


@asynccontextmanager
async def earning(devnet: Devnet, folder: Path) -> AsyncIterator[Provider]:
    """A provider that was paid three times by vouchers, on a real chain."""
    async with served_provider(devnet, folder) as ours:
        wallet = paywall.Wallet("0x" + "7" * 64, state=folder / "wallet.db", deposit="$0.20")
        devnet.fund_usdc(wallet.address, 1_000_000)
        async with paywall.AsyncClient(wallet=wallet) as client:
            for _ in range(3):
                assert (await client.get(f"{ours.url}/item")).status_code == 200
        wallet.close()
        yield ours


def age(url: str, ms: int = 60_000) -> None:
    """The rows are older than they are."""
    with sqlite3.connect(url.removeprefix("sqlite:///")) as db:
        db.execute("UPDATE ledger SET at_ms = at_ms - ?", (ms,))
    db.close()


async def test_the_books_agree_with_the_chain_before_and_after_collecting(
    devnet: Devnet, tmp_path: Path
) -> None:
    async with earning(devnet, tmp_path) as ours:
        told = ["reconcile", "--store", ours.store_url, "--rpc", devnet.url]
        told += ["--network", "eip155:84532"]
        before = json.loads((await invoke(*told)).stdout)
        assert (before["rows"], before["charged"], before["unclaimed"]) == (3, 3000, 3000)
        assert (before["claimed"], before["difference"]) == (0, 0)
        await ours.collect()
        after = json.loads((await invoke(*told)).stdout)
        assert (after["claimed"], after["unclaimed"], after["unsettled"]) == (3000, 0, 0)
        assert after["difference"] == 0


async def test_a_row_that_was_changed_by_hand_is_found(devnet: Devnet, tmp_path: Path) -> None:
    async with earning(devnet, tmp_path) as ours:
        path = ours.store_url.removeprefix("sqlite:///")
        forged = ledger.encode(Line(CHARGE, "1001", b"", CONFIG.payer))
        with sqlite3.connect(path) as db:
            db.execute("DELETE FROM ledger WHERE number = 2")
            db.execute("INSERT INTO ledger (at_ms, line) VALUES (1, ?)", (forged,))
        db.close()
        done = await invoke("reconcile", "--store", ours.store_url)
        assert done.exit_code == 1
        found = {(one["what"], one["amount"]) for one in json.loads(done.stdout)["differences"]}
        assert found == {
            ("rows of the ledger against what was charged", -1000),
            ("rows of a channel that is not there", 1001),
        }


async def test_export_writes_every_form_and_the_same_in_each(
    devnet: Devnet, tmp_path: Path
) -> None:
    async with earning(devnet, tmp_path) as ours:
        age(ours.store_url)
        for form in ("json", "csv", "parquet"):
            output = str(tmp_path / f"ledger.{form}")
            done = await invoke(
                "export", "--store", ours.store_url, "--format", form, "--output", output
            )
            assert done.exit_code == 0, done.output
    lines = [json.loads(one) for one in (tmp_path / "ledger.json").read_text().splitlines()]
    with (tmp_path / "ledger.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == lines
    table = pyarrow.parquet.read_table(tmp_path / "ledger.parquet").to_pylist()
    assert [one["amount"] for one in table] == [Decimal(1000)] * 3
    assert [one["request"] for one in table] == [one["request"] for one in lines]
    assert [one["route"] for one in lines] == ["GET /item"] * 3
    assert [one["voucher"] for one in lines] == ["1000", "2000", "3000"]


async def test_an_archive_is_continued_and_the_store_trimmed_behind_it(
    devnet: Devnet, tmp_path: Path
) -> None:
    path = tmp_path / "ledger.jsonl"
    async with earning(devnet, tmp_path) as ours:
        told = ["export", "--store", ours.store_url, "--append", str(path)]
        young = await invoke(*told)
        assert (young.exit_code, path.read_text()) == (0, ""), "the last seconds are left"
        age(ours.store_url)
        for _ in range(2):
            assert (await invoke(*told, "--trim")).exit_code == 0
        assert len(path.read_text().splitlines()) == 3, "nothing twice"
        age(ours.store_url, 40 * 86_400_000)
        done = await invoke(*told, "--trim")
        assert done.exit_code == 0
        store = open_store(ours.store_url)
        await store.open()
        assert await store.ledger("", FOREVER) == []
        await store.close()
        told = ["reconcile", "--store", ours.store_url]
        assert (await invoke(*told)).exit_code == 1
        assert (await invoke(*told, "--archive", str(path))).exit_code == 0


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        (["--trim"], "say which one"),
        (["--append", "a", "--format", "csv"], "for one file of JSON lines"),
        (["--format", "parquet"], "say which with --output"),
    ],
)
async def test_what_cannot_be_exported_is_said(
    tmp_path: Path, told: list[str], complaint: str
) -> None:
    done = await invoke("export", "--store", f"sqlite:///{tmp_path}/a.db", *told)
    assert isinstance(done.exception, ConfigurationError)
    assert complaint in str(done.exception)


async def test_a_file_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    path.write_text("mine")
    done = await invoke("export", "--store", f"sqlite:///{tmp_path}/a.db", "-o", str(path))
    assert isinstance(done.exception, ConfigurationError)
    assert path.read_text() == "mine"


def test_text_that_a_spreadsheet_would_run_is_quoted(tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    with open_target(Target(path, "csv"), sys.stdout) as file:
        file.write(row(request="=1+1", payment_id="-payment-"))
    with path.open(newline="") as written:
        (told,) = csv.DictReader(written)
    assert (told["request"], told["payment_id"], told["amount"]) == ("'=1+1", "'-payment-", "5")
