"""Rows of the ledger in files: JSON lines, CSV, Parquet. Amounts are decimal text, exact.

JSON lines are an archive: a file is continued where its last line ends, and read back. What was
written is on disk before anybody drops it from the store.
"""

import csv
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Protocol, Self

import msgspec

from paywall.protocol.errors import ConfigurationError
from paywall.protocol.ledger import Row
from paywall.protocol.money import parse_address
from paywall.protocol.x402 import show_address, show_bytes

_TAIL_BYTES: Final = 64 * 1024
_BATCH: Final = 10_000


class Shown(msgspec.Struct, frozen=True):
    """A row as people and other programs read it. `time` is RFC 3339 in UTC."""

    time: str
    kind: str
    amount: str
    payer: str
    route: str
    channel: str
    voucher: str
    request: str
    payment_id: str
    transaction: str
    network: str
    asset: str
    position: str


FIELDS: Final = Shown.__struct_fields__
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Shown).decode


def shown(row: Row) -> Shown:
    moment = datetime.fromtimestamp(row.at_ms / 1000, UTC)
    return Shown(
        time=moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        kind=row.kind,
        amount=str(row.amount),
        payer=show_address(row.payer),
        route=row.route,
        channel=show_bytes(row.channel_id) if row.channel_id else "",
        voucher=str(row.voucher),
        request=row.request,
        payment_id=row.payment_id,
        transaction=show_bytes(row.transaction) if row.transaction else "",
        network=row.network,
        asset=show_address(row.asset),
        position=row.position,
    )


def read_back(line: bytes) -> Row:
    """The opposite of a JSON line. Raises ValueError."""
    told = _decode(line)
    return Row(
        position=told.position,
        at_ms=round(datetime.fromisoformat(told.time).timestamp() * 1000),
        kind=told.kind,
        amount=int(told.amount),
        channel_id=bytes.fromhex(told.channel[2:]),
        payer=parse_address(told.payer),
        route=told.route,
        request=told.request,
        voucher=int(told.voucher),
        network=told.network,
        asset=parse_address(told.asset),
        payment_id=told.payment_id,
        transaction=bytes.fromhex(told.transaction[2:]),
    )


def archive(paths: Iterable[Path]) -> Iterator[Row]:
    """The rows of files that were exported as JSON lines. Raises ConfigurationError."""
    for path in paths:
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    yield _read(path, number, line)
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error


def _read(path: Path, number: int, line: bytes) -> Row:
    try:
        return read_back(line)
    except (ValueError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"{path}, line {number}: no row of a ledger ({error})") from error


def last_position(path: Path) -> str:
    """Where a file of JSON lines ends, "" when it is not there or empty.

    Raises ConfigurationError for one that ends in the middle of a line.
    """
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        tail = file.read()
    if not tail:
        return ""
    if not tail.endswith(b"\n"):
        raise ConfigurationError(f"{path} ends in the middle of a line: mend it or name another")
    return _read(path, -1, tail.splitlines()[-1]).position


class Writer(AbstractContextManager["Writer"], Protocol):
    """A file that takes rows, and is on disk when it is closed without an error."""

    def write(self, row: Row) -> None: ...


class _Lines:
    """JSON lines, or CSV with a head."""

    def __init__(self, file: IO[str], as_csv: bool, sync: bool, head: bool) -> None:
        self._file = file
        self._sync = sync
        self._csv = csv.writer(file, lineterminator="\n") if as_csv else None
        if self._csv and head:
            self._csv.writerow(FIELDS)

    def write(self, row: Row) -> None:
        told = shown(row)
        if self._csv:
            self._csv.writerow([_plain(value) for value in msgspec.structs.astuple(told)])
        else:
            self._file.write(_encode(told).decode() + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.flush()
        if self._sync:
            os.fsync(self._file.fileno())
            self._file.close()


def _plain(value: str) -> str:
    """Text that a spreadsheet does not take for a formula: a payer may choose some of it."""
    return "'" + value if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


class _Parquet:
    """Parquet, by pyarrow; written in batches."""

    def __init__(self, path: Path) -> None:
        try:
            self._arrow: Any = import_module("pyarrow")
            parquet: Any = import_module("pyarrow.parquet")
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                "Parquet needs a package more: pip install 'paywall[parquet]'"
            ) from error
        self._path = path
        self._schema = self._arrow.schema([(name, self._type(name)) for name in FIELDS])
        self._writer = parquet.ParquetWriter(path, self._schema)
        self._rows: list[Row] = []

    def _type(self, name: str) -> object:
        if name in ("amount", "voucher"):
            return self._arrow.decimal256(39, 0)
        return self._arrow.timestamp("ms", tz="UTC") if name == "time" else self._arrow.string()

    def write(self, row: Row) -> None:
        self._rows.append(row)
        if len(self._rows) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        told = [msgspec.structs.asdict(shown(row)) for row in self._rows]
        for one, row in zip(told, self._rows, strict=True):
            one |= {"amount": Decimal(row.amount), "voucher": Decimal(row.voucher)}
            one["time"] = datetime.fromtimestamp(row.at_ms / 1000, UTC)
        self._writer.write_table(self._arrow.Table.from_pylist(told, schema=self._schema))
        self._rows = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._flush()
        self._writer.close()
        with self._path.open("rb") as file:
            os.fsync(file.fileno())


@dataclass(frozen=True, slots=True)
class Target:
    """Where rows go: a file (None is `out`), its form, and whether it is continued."""

    path: Path | None
    form: str
    append: bool = False


def open_target(target: Target, out: IO[str]) -> Writer:
    """Raises ConfigurationError for what cannot be written."""
    if target.form == "parquet":
        if target.path is None:
            raise ConfigurationError("Parquet goes to a file: say which with --output")
        return _Parquet(target.path)
    as_csv = target.form == "csv"
    if target.path is None:
        return _Lines(out, as_csv, sync=False, head=True)
    try:
        file = target.path.open("a" if target.append else "x", encoding="utf-8", newline="")
    except FileExistsError:
        raise ConfigurationError(
            f"{target.path} is there already; --append continues a file of JSON lines"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{target.path} cannot be written: {error.strerror}") from error
    return _Lines(file, as_csv, sync=True, head=True)
