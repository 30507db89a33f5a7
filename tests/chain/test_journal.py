"""What a claimer writes down for people: what it did, what waits and why, which alarms stand."""

from functools import partial

from helpers.chain import ASSET, rich_payer
from helpers.collecting import claimer_of, providing
from helpers.rpc_proxy import RpcProxy, deaf

from paywall import telling
from paywall.chain.desk import CLAIM, MAX_DEEDS, RESUMED, SETTLEMENT, Deed, Deeds, Desk, job_on
from paywall.chain.devnet import Devnet
from paywall.notices import Claimed, News, Notice, Settled
from paywall.protocol.claims import ClaimPolicy
from paywall.protocol.x402 import show_address, show_bytes
from paywall.stores import Store

DEAR = ClaimPolicy(native_price="$3000000")
"""A coin so dear that no claim of these tests is worth its fee."""


def desk_of(store: Store) -> Desk:
    return Desk(store, job_on(ASSET.network), 0)


async def test_a_claim_and_a_settlement_are_written_down_and_told(devnet: Devnet) -> None:
    heard: list[Notice] = []
    async with providing(devnet) as provider:
        customers = [await provider.customer(rich_payer(devnet)) for _ in range(2)]
        for customer in customers:
            await provider.serve(customer, 1_000)
        hear = partial(telling.done, News(heard.append, lambda: 1.0))
        done = await claimer_of(provider, hear=hear).run_once()
        assert done is not None
        deeds = await desk_of(provider.store).deeds()
        outlook = await desk_of(provider.store).outlook()
    claim, settlement = done.claimed[0].mined, done.settled[0].mined
    assert [(deed.kind, deed.channels, deed.amount) for deed in deeds.last] == [
        (CLAIM, 2, 2_000),
        (SETTLEMENT, 0, 2_000),
    ]
    assert (deeds.transactions, deeds.claimed) == (2, 2_000)
    assert deeds.fee_wei == claim.fee_wei + settlement.fee_wei
    assert heard == [
        Claimed(1.0, 2, 2_000, show_bytes(claim.transaction), claim.fee_wei),
        Settled(
            1.0,
            show_address(provider.receiver),
            2_000,
            show_bytes(settlement.transaction),
            settlement.fee_wei,
        ),
    ]
    assert outlook is not None
    assert outlook.waiting == ()
    assert outlook.price_wei > 0


async def test_what_waits_is_written_down_with_its_reason(devnet: Devnet) -> None:
    async with providing(devnet) as provider:
        for _ in range(2):
            await provider.serve(await provider.customer(rich_payer(devnet)), 1_000)
        await claimer_of(provider, policy=DEAR).run_once()
        outlook = await desk_of(provider.store).outlook()
        assert outlook is not None
        assert outlook.waiting == (("dust", 2, 2_000),)
        assert (await desk_of(provider.store).deeds()).last == ()


async def test_what_a_predecessor_had_sent_is_in_the_journal_once(devnet: Devnet) -> None:
    async with RpcProxy(devnet.url) as proxy, providing(devnet, proxy.url) as provider:
        await provider.serve(await provider.customer(rich_payer(devnet)), 1_000)
        proxy.faults["eth_getTransactionReceipt"] = deaf
        first = claimer_of(provider)
        await first.run_once()
        assert (await desk_of(provider.store).deeds()).last == ()
        await first.close()
        proxy.faults.clear()
        await claimer_of(provider).run_once()
        kinds = [deed.kind for deed in (await desk_of(provider.store).deeds()).last]
        assert kinds.count(RESUMED) == 1
        assert CLAIM not in kinds


def test_the_journal_forgets_pages_and_keeps_its_sums() -> None:
    deeds = Deeds()
    for number in range(MAX_DEEDS + 5):
        deeds = deeds.also(Deed(number, CLAIM, b"", 3, 1, 1, 10))
    assert len(deeds.last) == MAX_DEEDS
    assert deeds.last[0].at_ms == 5
    assert (deeds.transactions, deeds.fee_wei, deeds.claimed) == (105, 315, 1_050)
