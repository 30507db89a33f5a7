"""The ledger: one row for everything that was ever earned, in the order in which it was. Pure.

A row is written in the same step as what it tells of, so there is a row for every charge and a
charge for every row. Three kinds of it, and their sums are what a provider has earned:

    charge     a request was charged to a channel
    transfer   a request was paid by a transfer of its own (`exact`), which was mined
    adopted    a channel's total rose without a request of ours: a record that was lost came back by
               the payer's own signature, or the chain knows of more than we do

The store numbers the rows and dates them by its own clock; a `position` is its word for where a row
stands, and means nothing to anybody else.
"""

from typing import Final

import msgspec

from paywall.protocol.money import ZERO_ADDRESS, Address

CHARGE: Final = "charge"
TRANSFER: Final = "transfer"
ADOPTED: Final = "adopted"


class Line(msgspec.Struct, frozen=True, array_like=True):
    """A row as it is kept. Append fields, never insert. Amounts are decimal: they have 128 bits."""

    kind: str
    amount: str
    channel_id: bytes
    payer: bytes = ZERO_ADDRESS
    route: str = ""
    request: str = ""
    voucher: str = "0"
    network: str = ""
    asset: bytes = ZERO_ADDRESS
    payment_id: str = ""
    transaction: bytes = b""


class Row(msgspec.Struct, frozen=True):
    """A row as it is read. `amount` and `voucher` are atomic units of `asset`, `at_ms` Unix time.

    `voucher` is the total under the signature that paid, 0 for a transfer.
    """

    position: str
    at_ms: int
    kind: str
    amount: int
    channel_id: bytes
    payer: Address
    route: str
    request: str
    voucher: int
    network: str
    asset: Address
    payment_id: str
    transaction: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Line).decode


def encode(line: Line) -> bytes:
    return _encode(line)


def adopted(channel_id: bytes, amount: int) -> bytes:
    """What a store notes of a total that rose without a request."""
    return _encode(Line(ADOPTED, str(amount), channel_id))


def row_of(position: str, at_ms: int, line: bytes) -> Row:
    told = _decode(line)
    return Row(
        position=position,
        at_ms=at_ms,
        kind=told.kind,
        amount=int(told.amount),
        channel_id=told.channel_id,
        payer=Address(told.payer),
        route=told.route,
        request=told.request,
        voucher=int(told.voucher),
        network=told.network,
        asset=Address(told.asset),
        payment_id=told.payment_id,
        transaction=told.transaction,
    )
