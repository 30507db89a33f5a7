"""What a claim, a settlement or a refund would send now and what it would cost: never sent."""

from collections.abc import Iterable

from paywall.chain.claimer import owing, receivers
from paywall.chain.own import OwnChain
from paywall.chain.returns import refuse_promised
from paywall.chain.sift import sift
from paywall.chain.watcher import reread
from paywall.protocol import claims
from paywall.protocol.channel import Channel
from paywall.protocol.claims import Batch, ClaimPolicy, Costs, Situation, Why
from paywall.protocol.errors import PaymentError
from paywall.protocol.money import KNOWN_ASSETS, Address
from paywall.protocol.x402 import show_address, show_bytes
from paywall.stores import Store

Rows = list[dict[str, object]]


async def preview_claim(
    store: Store, chain: OwnChain, policy: ClaimPolicy, by_policy: bool
) -> Rows:
    """A row for each transaction, each row that the contract would refuse, and what would wait.

    Without `by_policy`, everything that is owed goes. Raises ChainUnavailable.
    """
    due = await owing(store, chain.network)
    price_wei = await chain.gas_price_wei()
    batches, waiting = claims.batches(due), list[tuple[Channel, Why]]()
    if by_policy:
        head = await chain.head()
        plan = claims.plan(due, policy, Situation(1000 * head.mined_at, Costs(price_wei)))
        batches = list(plan.batches)
        waiting = [(channel, plan.why[channel.channel_id]) for channel in plan.waiting]
    rows: Rows = []
    for batch in batches:
        rows += await _claim_rows(chain, batch, policy, price_wei)
    return [*rows, *_waiting_rows(waiting)]


async def _claim_rows(chain: OwnChain, batch: Batch, policy: ClaimPolicy, price_wei: int) -> Rows:
    good, bad = await sift(chain, batch)
    rows: Rows = [
        _row(f"refused: {reason or 'no reason'}: {show_bytes(channel.channel_id)}", channel)
        for channel, reason in bad
    ]
    if good.channels:
        token = good.channels[0].config.token
        wei = await chain.rehearse(good) * price_wei
        row = {"action": "claim", "channels": len(good.channels), "amount": good.amount}
        rows.insert(0, {**row, **_fee(chain.network, token, wei, policy.native_price)})
    return rows


def _waiting_rows(waiting: Iterable[tuple[Channel, Why]]) -> Rows:
    return [
        _row(f"waits ({why.value}): {show_bytes(channel.channel_id)}", channel)
        for channel, why in waiting
    ]


def _row(action: str, channel: Channel) -> dict[str, object]:
    return {"action": action, "channels": 1, "amount": channel.unclaimed, "fee_wei": 0, "fee": ""}


async def preview_settle(store: Store, chain: OwnChain, native_price: str) -> Rows:
    """A row for each receiver that would be paid. Raises ChainUnavailable."""
    price_wei = await chain.gas_price_wei()
    rows: Rows = []
    for receiver, token in sorted(await receivers(store, chain.network)):
        amount = await chain.to_settle(receiver, token)
        if amount > 0:
            wei = await chain.rehearse_settlement(receiver, token) * price_wei
            row = {"action": "settle", "receiver": show_address(receiver), "amount": amount}
            rows.append({**row, **_fee(chain.network, token, wei, native_price)})
    return rows


async def preview_refund(
    store: Store, chain: OwnChain, channel: Channel, amount: int | None, native_price: str
) -> Rows:
    """The one row of a refund, with what it would claim first.

    Raises PaymentError when it would not be made, and ChainUnavailable.
    """
    channel = await reread(store, chain, channel)
    refuse_promised(channel)
    back = channel.refundable if amount is None else amount
    if not 0 < back <= channel.refundable:
        raise PaymentError(f"{channel.refundable} units are left of this channel's deposit")
    wei = await chain.rehearse_refund(channel, back) * await chain.gas_price_wei()
    row = {"action": "refund", "channel": show_bytes(channel.channel_id), "amount": back}
    fee = _fee(chain.network, channel.config.token, wei, native_price)
    return [{**row, "claimed_first": channel.unclaimed, **fee}]


def _fee(network: str, token: Address, wei: int, native_price: str) -> dict[str, object]:
    """A fee in wei, and in the token as far as it is known."""
    asset = KNOWN_ASSETS.get((network, token))
    if asset is None:
        return {"fee_wei": wei, "fee": ""}
    terms = ClaimPolicy(native_price=native_price).of(asset)
    return {"fee_wei": wei, "fee": asset.show(terms.fee(wei))}
