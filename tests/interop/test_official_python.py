"""We and the official Python SDK: its client at our provider, our clients at its server.

All parts are real: the embedded chain, uvicorn, SQLite, the SDK's own client, middleware and
facilitator. Every sum is compared to the unit: what either side remembers, what the contract
records, and what the token says of everybody's wallet.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from helpers.official import (
    PARTIAL,
    OfficialPayer,
    OfficialServer,
    official_server,
    on_chain,
    rich_payer,
)
from helpers.servers import CEILING, MIN_DEPOSIT, PRICE, WORD, Provider, provider
from x402.http import x402HTTPClient
from x402.http.clients import wrapHttpxWithPayment, x402_requests
from x402.http.utils import decode_payment_response_header
from x402.schemas import SettleResponse

import paywall
from paywall.chain.devnet import Devnet

DEPOSIT = 50_000
"""What our wallet puts into a channel here: more than the official server asks."""


@pytest.fixture
async def ours(devnet: Devnet, tmp_path: Path) -> AsyncIterator[Provider]:
    """A provider of ours, alone with its receiver and its store."""
    async with provider(devnet, tmp_path) as running:
        yield running


@pytest.fixture
def theirs(devnet: Devnet) -> Iterator[OfficialServer]:
    with official_server(devnet) as running:
        yield running


def paying(payer: OfficialPayer, provider: Provider) -> httpx.AsyncClient:
    return wrapHttpxWithPayment(payer.client(), base_url=provider.url, timeout=30)


def receipt_of(answer: httpx.Response) -> SettleResponse:
    return decode_payment_response_header(answer.headers["PAYMENT-RESPONSE"])


async def refund(
    payer: OfficialPayer, provider: Provider, amount: int | None = None
) -> SettleResponse:
    return await asyncio.to_thread(payer.refund, provider.url + "/item", amount)


# -- The official client at our provider ---------------------------------------------------------


async def test_one_deposit_pays_for_vouchers_and_refunds_return_the_rest(
    devnet: Devnet, ours: Provider
) -> None:
    payer = rich_payer(devnet)
    async with paying(payer, ours) as client:
        answers = [await client.get("/item") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200] * 4
        receipts = [receipt_of(answer) for answer in answers]
        assert [receipt.amount for receipt in receipts] == [str(MIN_DEPOSIT), "", "", ""]
        assert [bool(receipt.transaction) for receipt in receipts] == [True, False, False, False]
        assert [receipt.extra["chargedAmount"] for receipt in receipts] == [str(PRICE)] * 4
        assert payer.spent() == MIN_DEPOSIT

        channel = await ours.channel()
        assert (channel.charged, channel.signed, channel.balance) == (4000, 4000, MIN_DEPOSIT)
        assert on_chain(devnet, channel.channel_id) == (MIN_DEPOSIT, 0)
        assert payer.context(channel.channel_id).charged_cumulative_amount == "4000"

        part = await refund(payer, ours, 20_000)
        assert (part.success, part.amount) == (True, "20000")
        assert payer.spent() == MIN_DEPOSIT - 20_000
        assert on_chain(devnet, channel.channel_id) == (MIN_DEPOSIT - 20_000, 4000)

        assert (await client.get("/item")).status_code == 200
        rest = await refund(payer, ours)
        assert (rest.success, rest.amount) == (True, str(MIN_DEPOSIT - 20_000 - 5000))

    assert payer.spent() == 5000
    assert payer.context(channel.channel_id) is None
    assert on_chain(devnet, channel.channel_id) == (5000, 5000)
    after = await ours.channel()
    assert (after.charged, after.claimed, after.balance, after.holds) == (5000, 5000, 5000, {})
    await ours.collect()
    assert devnet.usdc_balance(ours.receiver) == 5000


async def test_what_was_charged_is_claimed_settled_and_then_paid_for_again(
    devnet: Devnet, ours: Provider
) -> None:
    payer = rich_payer(devnet)
    async with paying(payer, ours) as client:
        for _ in range(3):
            assert (await client.get("/item")).status_code == 200
        assert await ours.collect() == (1, 1)
        channel = await ours.channel()
        assert devnet.usdc_balance(ours.receiver) == 3 * PRICE
        assert on_chain(devnet, channel.channel_id) == (MIN_DEPOSIT, 3 * PRICE)

        assert (await client.get("/item")).status_code == 200
        assert await ours.collect() == (1, 1)
        assert await ours.collect() == (0, 0)
    assert devnet.usdc_balance(ours.receiver) == 4 * PRICE
    assert payer.spent() == MIN_DEPOSIT


async def test_a_balance_that_is_used_up_is_filled_again(devnet: Devnet, ours: Provider) -> None:
    payer = rich_payer(devnet)
    async with paying(payer, ours) as client:
        assert (await client.get("/item")).status_code == 200
        channel = await ours.channel()
        left = MIN_DEPOSIT - PRICE - PRICE // 2
        assert (await refund(payer, ours, left)).amount == str(left)
        answer = await client.get("/item")  # half a price is left
    receipt = receipt_of(answer)
    assert (answer.status_code, receipt.amount) == (200, str(MIN_DEPOSIT))
    balance = PRICE + PRICE // 2 + MIN_DEPOSIT
    assert payer.spent() == balance
    assert on_chain(devnet, channel.channel_id) == (balance, PRICE)
    assert (await ours.channel()).charged == 2 * PRICE


async def test_a_refunded_channel_is_opened_again(devnet: Devnet, ours: Provider) -> None:
    payer = rich_payer(devnet, reads_chain=True)
    async with paying(payer, ours) as client:
        for _ in range(2):
            assert (await client.get("/item")).status_code == 200
        assert (await refund(payer, ours)).success
        assert payer.spent() == 2 * PRICE
        for _ in range(2):
            assert (await client.get("/item")).status_code == 200
    assert payer.spent() == 2 * PRICE + MIN_DEPOSIT
    channel = await ours.channel()
    assert channel.charged == 4 * PRICE
    assert on_chain(devnet, channel.channel_id) == (2 * PRICE + MIN_DEPOSIT, 2 * PRICE)


async def test_a_client_that_lost_its_state_recovers_from_our_corrective_402(
    devnet: Devnet, ours: Provider
) -> None:
    payer = rich_payer(devnet)
    async with paying(payer, ours) as client:
        for _ in range(3):
            assert (await client.get("/item")).status_code == 200
    reborn = payer.reborn(reads_chain=True)
    async with paying(reborn, ours) as client:
        for _ in range(2):
            assert (await client.get("/item")).status_code == 200
    channel = await ours.channel()
    assert (channel.charged, channel.signed) == (5 * PRICE, 5 * PRICE)
    assert reborn.context(channel.channel_id).charged_cumulative_amount == str(5 * PRICE)
    assert payer.spent() == MIN_DEPOSIT


async def test_a_client_that_lost_its_state_and_reads_no_chain_deposits_nothing(
    devnet: Devnet, ours: Provider
) -> None:
    payer = rich_payer(devnet)
    async with paying(payer, ours) as client:
        assert (await client.get("/item")).status_code == 200
    async with paying(payer.reborn(reads_chain=False), ours) as client:
        assert (await client.get("/item")).status_code == 402
    assert payer.spent() == MIN_DEPOSIT
    channel = await ours.channel()
    assert (channel.charged, channel.holds) == (PRICE, {})


@pytest.mark.parametrize("reads_chain", [False, True])
async def test_a_metered_answer_in_one_piece_leaves_both_with_the_same_total(
    devnet: Devnet, ours: Provider, reads_chain: bool
) -> None:
    payer = rich_payer(devnet, reads_chain)
    async with paying(payer, ours) as client:
        metered = await client.get("/counted/3")
        assert receipt_of(metered).extra["chargedAmount"] == str(3 * WORD)
        for _ in range(3):
            assert (await client.get("/item")).status_code == 200
    total = 3 * WORD + 3 * PRICE
    channel = await ours.channel()
    assert channel.charged == total
    assert payer.context(channel.channel_id).charged_cumulative_amount == str(total)
    assert payer.spent() == MIN_DEPOSIT


async def test_after_a_metered_stream_a_client_counts_on_from_the_ceiling_and_loses_nothing(
    devnet: Devnet, ours: Provider
) -> None:
    payer = rich_payer(devnet, reads_chain=True)
    async with paying(payer, ours) as client:
        metered = await client.get("/words/3")
        assert receipt_of(metered).extra["chargedAmount"] == str(CEILING)
        for _ in range(12):
            assert (await client.get("/item")).status_code == 200
    total = 3 * WORD + 12 * PRICE
    channel = await ours.channel()
    assert channel.charged == total
    counted = payer.context(channel.channel_id).charged_cumulative_amount
    assert counted == str(CEILING + 12 * PRICE)
    assert (await refund(payer, ours)).amount == str(MIN_DEPOSIT - total)
    assert payer.spent() == total


async def test_after_a_metered_stream_a_client_that_reads_no_chain_pays_for_answers_only(
    devnet: Devnet, ours: Provider
) -> None:
    payer = rich_payer(devnet)
    async with paying(payer, ours) as client:
        assert (await client.get("/words/3")).status_code == 200
        statuses = [(await client.get("/item")).status_code for _ in range(3)]
    assert statuses == [200, 200, 200]
    channel = await ours.channel()
    assert (channel.charged, channel.holds) == (3 * WORD + statuses.count(200) * PRICE, {})
    assert payer.spent() == MIN_DEPOSIT


async def test_a_total_that_comes_to_what_was_signed_for_a_metered_answer_is_paid(
    devnet: Devnet, ours: Provider
) -> None:
    payer = rich_payer(devnet, reads_chain=True)
    async with paying(payer, ours) as client:
        assert (await client.get("/counted/10")).status_code == 200  # signed CEILING, cost PRICE
        for _ in range(2 * CEILING // PRICE):
            assert (await client.get("/item")).status_code == 200
    assert (await ours.channel()).charged == 10 * WORD + 2 * CEILING
    assert payer.spent() == MIN_DEPOSIT


async def test_a_refund_after_a_metered_answer_leaves_a_channel_that_pays(
    devnet: Devnet, ours: Provider
) -> None:
    payer = rich_payer(devnet, reads_chain=True)
    async with paying(payer, ours) as client:
        assert (await client.get("/counted/3")).status_code == 200
        assert (await refund(payer, ours, 20_000)).amount == "20000"
        assert (await client.get("/item")).status_code == 200
    assert payer.spent() == MIN_DEPOSIT - 20_000
    assert (await ours.channel()).charged == 3 * WORD + PRICE


async def test_a_deposit_whose_request_failed_pays_for_the_next_one(
    devnet: Devnet, ours: Provider
) -> None:
    payer = rich_payer(devnet)
    async with paying(payer, ours) as client:
        failed = await client.get("/status/500")
        assert failed.status_code == 500
        receipt = receipt_of(failed)
        assert (receipt.success, receipt.amount) == (True, str(MIN_DEPOSIT))
        assert receipt.extra["chargedAmount"] == "0"
        assert (await client.get("/status/503")).status_code == 503
        assert (await client.get("/item")).status_code == 200
    assert payer.spent() == MIN_DEPOSIT
    channel = await ours.channel()
    assert (channel.charged, channel.signed, channel.holds) == (PRICE, PRICE, {})
    assert on_chain(devnet, channel.channel_id) == (MIN_DEPOSIT, 0)


async def test_the_official_client_for_requests_pays_too(devnet: Devnet, ours: Provider) -> None:
    payer = rich_payer(devnet)

    def buy() -> list[int]:
        with x402_requests(payer.client_sync()) as session:
            return [session.get(ours.url + "/item", timeout=30).status_code for _ in range(3)]

    assert await asyncio.to_thread(buy) == [200] * 3
    assert payer.spent() == MIN_DEPOSIT
    assert (await ours.channel()).charged == 3 * PRICE


async def test_twenty_at_once_cost_what_was_answered(devnet: Devnet, ours: Provider) -> None:
    payer = rich_payer(devnet, reads_chain=True)
    async with paying(payer, ours) as client:
        assert (await client.get("/item")).status_code == 200
        answers = await asyncio.gather(*(client.get("/slow") for _ in range(20)))
        answered = Counter(answer.status_code for answer in answers)
        assert (await client.get("/item")).status_code == 200
    assert answered.total() == answered[200] + answered[402] == 20
    assert answered[200] >= 1
    channel = await ours.channel()
    assert (channel.charged, channel.holds) == ((answered[200] + 2) * PRICE, {})
    assert payer.spent() == MIN_DEPOSIT


async def test_of_twenty_first_payments_at_once_only_one_deposit_reaches_the_chain(
    devnet: Devnet, ours: Provider
) -> None:
    payer = rich_payer(devnet)
    official = x402HTTPClient(payer.client())
    async with httpx.AsyncClient(base_url=ours.url, timeout=30) as client:
        quote = await client.get("/slow")
        required = official.get_payment_required_response(quote.headers.get)
        payments = [await official.create_payment_payload(required) for _ in range(20)]
        headers = [official.encode_payment_signature_header(payment) for payment in payments]
        answers = await asyncio.gather(*(client.get("/slow", headers=each) for each in headers))
    assert Counter(answer.status_code for answer in answers) == {200: 1, 402: 19}
    channel = await ours.channel()
    assert (channel.charged, channel.balance) == (PRICE, MIN_DEPOSIT)
    assert payer.spent() == MIN_DEPOSIT


# -- Our clients at the official server ----------------------------------------------------------


def wallet_of(payer: OfficialPayer, folder: Path, deposit: str = "$0.05") -> paywall.Wallet:
    return paywall.Wallet(
        payer.account.key.hex(), total="$2", deposit=deposit, state=folder / "agent.db"
    )


async def test_our_client_pays_deposit_and_vouchers_on_the_first_try_and_is_refunded(
    devnet: Devnet, theirs: OfficialServer, tmp_path: Path
) -> None:
    payer = rich_payer(devnet)
    wallet = wallet_of(payer, tmp_path)
    async with paywall.AsyncClient(wallet=wallet, base_url=theirs.url, timeout=30) as client:
        answers = [await client.get(f"/item/{n}") for n in range(11)]
        assert [answer.status_code for answer in answers] == [200] * 11
        assert (theirs.requests.unpaid, theirs.requests.paid) == (1, 11)
        receipts = [paywall.receipt(answer) for answer in answers]
        assert [r.charged for r in receipts] == [PRICE] * 11
        assert [r.total for r in receipts] == [PRICE * (n + 1) for n in range(11)]
        assert payer.spent() == DEPOSIT
        channel_id = bytes.fromhex(receipts[0].channel[2:])
        assert on_chain(devnet, channel_id) == (DEPOSIT, 0)
        assert theirs.channel().charged_cumulative_amount == str(11 * PRICE)
        back = await client.refund("/item/0")
        assert (back.success, back.amount) == (True, DEPOSIT - 11 * PRICE)
        assert wallet.spent() == payer.spent() == 11 * PRICE
        assert on_chain(devnet, channel_id) == (11 * PRICE, 11 * PRICE)
    wallet.close()


async def test_our_sync_client_pays_the_official_server_which_collects(
    devnet: Devnet, theirs: OfficialServer, tmp_path: Path
) -> None:
    payer = rich_payer(devnet)
    wallet = wallet_of(payer, tmp_path)

    def buy() -> list[int]:
        with paywall.Client(wallet=wallet, base_url=theirs.url, timeout=30) as client:
            return [client.get("/item/sync").status_code for _ in range(3)]

    assert await asyncio.to_thread(buy) == [200] * 3
    wallet.close()
    assert await theirs.collect() == (1, True)
    assert devnet.usdc_balance(theirs.receiver) == 3 * PRICE


async def test_sixty_four_at_once_are_all_answered_by_turns(
    devnet: Devnet, theirs: OfficialServer, tmp_path: Path
) -> None:
    payer = rich_payer(devnet)
    wallet = wallet_of(payer, tmp_path, "$0.2")
    async with paywall.AsyncClient(wallet=wallet, base_url=theirs.url, timeout=60) as client:
        answers = await asyncio.gather(*(client.get(f"/item/{n}") for n in range(64)))
    wallet.close()
    assert [answer.status_code for answer in answers] == [200] * 64
    assert theirs.requests.paid == 64
    assert theirs.channel().charged_cumulative_amount == str(64 * PRICE)
    assert payer.spent() == 200_000


async def test_a_partial_charge_of_the_official_server_is_what_our_client_books(
    devnet: Devnet, theirs: OfficialServer, tmp_path: Path
) -> None:
    payer = rich_payer(devnet)
    wallet = wallet_of(payer, tmp_path)
    async with paywall.AsyncClient(wallet=wallet, base_url=theirs.url, timeout=30) as client:
        charged = []
        for route in ("/partial", "/partial", "/item/1", "/partial"):
            charged.append(paywall.receipt(await client.get(route)).charged)
        assert charged == [PARTIAL, PARTIAL, PRICE, PARTIAL]
        total = 3 * PARTIAL + PRICE
        assert wallet.spent() == total
        assert theirs.channel().charged_cumulative_amount == str(total)
        back = await client.refund("/partial")
        assert back.amount == DEPOSIT - total
    wallet.close()
    assert payer.spent() == total
