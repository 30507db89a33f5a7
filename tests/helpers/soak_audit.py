"""The audit of the soak: three books that were kept apart must say the same, to the unit.

    the agents'      which payments they sent, and which runs' answers they got
    the journals'    which runs began, and the heads of which paid answers left
    the store's      what each channel was charged, and what is remembered of each payment

What is charged is what was delivered: an answer that its agent got, or whose head had left when
the agent was gone. A request that failed, a hang-up before the head, a worker that was killed
before the charge: nothing. One case stands between: a worker that is killed when the charge is
made and the head has not left. The agent who comes back gets that answer, so the audit comes back
for those who hung up, with the same payment; that it does not run again is part of the audit.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import httpx
import msgspec

from helpers.soak_agents import Sent
from helpers.worker_app import PRICE, Event
from paywall.protocol import once
from paywall.protocol.channel import Channel
from paywall.protocol.errors import Refused
from paywall.protocol.once import AnsweredBefore, RefusedBefore, Ticket, decode_answer
from paywall.protocol.schemes.batch import channel_id_of
from paywall.protocol.x402 import decode_json, decode_payment
from paywall.stores import Store

_AT_ONCE = 256


class _Voucher(msgspec.Struct, rename="camel"):
    max_claimable_amount: str


class _Payload(msgspec.Struct):
    voucher: _Voucher


_payload = msgspec.json.Decoder(_Payload)


@dataclass(frozen=True)
class Charged:
    """What the store remembers of a payment that was charged."""

    channel_id: bytes
    amount: int
    total: int
    run: str


@dataclass
class Audit:
    """The findings. `problems` are sentences; there should be none."""

    charged: int = 0
    delivered: int = 0
    double_grants: int = 0
    came_back: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def difference(self) -> int:
        return self.charged - self.delivered * PRICE

    def expect(self, holds: bool, problem: str) -> None:
        if not holds:
            self.problems.append(problem)


async def audit(
    store: Store, url: str, network: str, payments: dict[str, Sent], events: list[Event]
) -> Audit:
    """Holds the three books against each other. Nobody else is at work any more."""
    found = Audit()
    ledger = await _ledger(store, network, payments)
    left = {event.payment for event in events if event.kind == "left"}
    got = {key for key, payment in payments.items() if payment.got}
    late = ledger.keys() - got - left
    found.came_back = await _come_back(url, payments, ledger, late, found)
    channels = await store.channels()
    found.charged = sum(channel.charged for channel in channels)
    found.delivered = len(got | left | late)
    _compare(found, ledger, got, left, payments)
    _totals(found, ledger, channels)
    _grants(found, ledger, payments, events)
    found.expect(found.difference == 0, f"charged and delivered differ by {found.difference}")
    found.expect(found.double_grants == 0, f"{found.double_grants} double grants")
    return found


# -- The store's book ----------------------------------------------------------------------------


async def _ledger(store: Store, network: str, payments: dict[str, Sent]) -> dict[str, Charged]:
    """Every payment that was charged, as the store itself remembers it."""
    found: dict[str, Charged] = {}
    keys = list(payments)
    for start in range(0, len(keys), _AT_ONCE):
        some = keys[start : start + _AT_ONCE]
        entries = await asyncio.gather(*(_entry(store, network, payments[key]) for key in some))
        found |= {key: entry for key, entry in zip(some, entries, strict=True) if entry}
    return found


async def _entry(store: Store, network: str, payment: Sent) -> Charged | None:
    """What a payment was charged; None when nothing was."""
    channel_id, ticket, amount = _read(payment, network)
    try:
        await store.look_up(channel_id, ticket)
    except AnsweredBefore as before:
        answer = decode_answer(before.answer)
        assert answer.charged == PRICE
        return Charged(channel_id, amount, before.total, dict(answer.headers)[b"x-run"].decode())
    except RefusedBefore:
        return None
    except Refused as refused:
        raise AssertionError(f"a payment is still {refused.reason.code}") from refused
    return None


def _read(payment: Sent, network: str) -> tuple[bytes, Ticket, int]:
    """Channel, ticket and voucher amount of a payment, from the header that its agent sent."""
    header = payment.header
    payload = decode_payment(header)
    extension = (payload.extensions or {})[once.EXTENSION]
    ticket = once.ticket_of(extension, header.encode(), f"GET {payment.call} ".encode())
    assert ticket is not None
    amount = decode_json(_payload, bytes(payload.payload)).voucher.max_claimable_amount
    return channel_id_of(payload.payload, network), ticket, int(amount)


async def _come_back(
    url: str,
    payments: dict[str, Sent],
    ledger: dict[str, Charged],
    late: Iterable[str],
    found: Audit,
) -> int:
    """Those whose worker died between the charge and the head get the answer that they paid for."""
    number = 0
    async with httpx.AsyncClient(base_url=url, verify=False, timeout=30) as client:
        for key in late:
            payment = payments[key]
            headers = {"payment-signature": payment.header}
            answer = await client.get(payment.call, headers=headers)
            same = answer.status_code == 200 and answer.json()["run"] == ledger[key].run
            found.expect(same, f"{payment.call} was charged, and is not answered")
            number += 1
    return number


# -- The comparison ------------------------------------------------------------------------------


def _compare(
    found: Audit, ledger: dict[str, Charged], got: set[str], left: set[str], sent: dict[str, Sent]
) -> None:
    for key in got | left:
        found.expect(key in ledger, f"{sent[key].call} was answered and never charged")
    for key in got & ledger.keys():
        same = sent[key].got == ledger[key].run
        found.expect(same, f"{sent[key].call} got another answer than the one that is kept")


def _totals(found: Audit, ledger: dict[str, Charged], channels: list[Channel]) -> None:
    """The totals of a channel's charges are 1, 2, 3 … prices: none is missing, none comes twice."""
    totals: dict[bytes, list[int]] = defaultdict(list)
    for charge in ledger.values():
        totals[charge.channel_id].append(charge.total)
    for channel in channels:
        steps = list(range(PRICE, channel.charged + PRICE, PRICE))
        whole = sorted(totals[channel.channel_id]) == steps
        found.expect(whole, f"the charges of {channel.channel_id.hex()} do not add up")
        found.expect(channel.charged <= channel.signed <= channel.balance, "more than was promised")


def _grants(
    found: Audit, ledger: dict[str, Charged], sent: dict[str, Sent], events: list[Event]
) -> None:
    """One voucher, one call and one payment each bought one answer at most."""
    vouchers = Counter((charge.channel_id, charge.amount) for charge in ledger.values())
    calls = Counter(sent[key].call for key in ledger)
    runs = {(event.payment, event.run) for event in events if event.kind == "left"}
    payments = Counter(payment for payment, _ in runs)
    for counted in (vouchers, calls, payments):
        found.double_grants += sum(times - 1 for times in counted.values())
