"""Transactions of a node whose endpoint loses, refuses or hides them: none is ever sent as two."""

import asyncio

import pytest
from aiohttp import web
from helpers.chain import (
    ASSET,
    batch_of,
    eventually,
    funded,
    new_address,
    node_of,
    rich_payer,
)
from helpers.rpc_proxy import Forward, RpcProxy, deaf, edited, error, once, result, says

from paywall.chain.devnet import Devnet
from paywall.protocol.errors import (
    ChainUnavailable,
    Reason,
    Refused,
    Reverted,
    TransactionPending,
)


async def test_transactions_wait_for_their_block_side_by_side() -> None:
    with Devnet(port=0) as devnet:
        payer = rich_payer(devnet)
        async with RpcProxy(devnet.url) as proxy, node_of(devnet, proxy.url) as node:
            await proxy.ask("evm_setAutomine", False)
            config = payer.config(node.receiver_authorizer)
            deposits = [payer.deposit(config, 1_000) for _ in range(10)]
            waiting = [asyncio.create_task(node.deposit(deposit)) for deposit in deposits]
            await eventually(lambda: proxy.answered.count("eth_sendRawTransaction") == 10)
            devnet.mine()
            mined = await asyncio.gather(*waiting)
            assert len({m.block for m in mined if m}) == 1
            assert (await node.channel(deposits[0].channel_id)).balance == 10_000


async def test_a_settlement_mined_late_does_not_stand_in_for_the_next_one(devnet: Devnet) -> None:
    payer, receiver = rich_payer(devnet), new_address()
    async with (
        RpcProxy(devnet.url) as proxy,
        node_of(devnet, proxy.url, timeout_seconds=3) as node,
    ):
        await node.claim(batch_of(node, await funded(node, payer, 500, receiver=receiver)))
        proxy.faults["eth_getTransactionReceipt"] = result(None)
        with pytest.raises(TransactionPending):
            await node.settle(receiver, ASSET.address)
        proxy.faults.clear()
        await node.claim(batch_of(node, await funded(node, payer, 70, receiver=receiver)))
        assert await node.settle(receiver, ASSET.address) is not None
        assert await node.token_balance(ASSET.address, receiver) == 570


async def test_case_35_two_equal_claims_at_once_are_one_transaction(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with RpcProxy(devnet.url) as proxy, node_of(devnet, proxy.url) as node:
        batch = batch_of(node, await funded(node, payer, 500))
        proxy.asked.clear()
        proxy.faults["eth_getTransactionReceipt"] = result(None)
        first = asyncio.create_task(node.claim(batch))
        await eventually(lambda: "eth_getTransactionReceipt" in proxy.asked)
        second = asyncio.create_task(node.claim(batch))
        await eventually(lambda: "eth_getTransactionByHash" in proxy.asked)
        del proxy.faults["eth_getTransactionReceipt"]
        assert await first == await second
        assert proxy.asked.count("eth_sendRawTransaction") == 1


async def test_an_unsent_transaction_is_sent_again_when_it_is_asked_for_again(
    devnet: Devnet,
) -> None:
    payer = rich_payer(devnet)
    async with (
        RpcProxy(devnet.url) as proxy,
        node_of(devnet, proxy.url, timeout_seconds=1.5) as node,
    ):
        batch = batch_of(node, await funded(node, payer, 500))
        proxy.faults["eth_sendRawTransaction"] = says("", 500)
        with pytest.raises(TransactionPending) as pending:
            await node.claim(batch)
        proxy.faults.clear()
        assert (await node.claim(batch)).transaction == pending.value.transaction


async def test_an_unsent_transaction_whose_number_was_taken_is_signed_anew(
    devnet: Devnet,
) -> None:
    payer = rich_payer(devnet)
    async with (
        RpcProxy(devnet.url) as proxy,
        node_of(devnet, proxy.url, timeout_seconds=1.5) as node,
    ):
        channel = await funded(node, payer, 500)
        proxy.faults["eth_sendRawTransaction"] = says("", 500)
        with pytest.raises(TransactionPending) as pending:
            await node.claim(batch_of(node, channel))
        proxy.faults.clear()
        await funded(node, payer, 1)
        mined = await node.claim(batch_of(node, channel))
        assert mined.transaction != pending.value.transaction
        assert (await node.channel(channel.channel_id)).claimed == 500


async def test_case_24_a_transaction_without_receipt_is_pending_and_never_sent_twice(
    devnet: Devnet,
) -> None:
    payer = rich_payer(devnet)
    async with (
        RpcProxy(devnet.url) as proxy,
        node_of(devnet, proxy.url, timeout_seconds=1) as node,
    ):
        channel = await funded(node, payer, 300_000)
        proxy.asked.clear()
        proxy.faults["eth_getTransactionReceipt"] = result(None)
        with pytest.raises(TransactionPending) as pending:
            await node.refund(channel, 100_000)
        assert f"0x{pending.value.transaction.hex()}" in str(pending.value)
        del proxy.faults["eth_getTransactionReceipt"]
        mined = await node.refund(channel, 100_000)
        assert mined.transaction == pending.value.transaction
        assert proxy.asked.count("eth_sendRawTransaction") == 1
        assert (await node.channel(channel.channel_id)).balance == 900_000


async def test_case_24_a_pending_deposit_that_was_mined_is_found_and_not_sent_again(
    devnet: Devnet,
) -> None:
    payer = rich_payer(devnet)
    async with (
        RpcProxy(devnet.url) as proxy,
        node_of(devnet, proxy.url, timeout_seconds=1.5) as node,
    ):
        deposit = payer.deposit(payer.config(node.receiver_authorizer))
        proxy.faults["eth_getTransactionReceipt"] = result(None)
        with pytest.raises(TransactionPending):
            await node.deposit(deposit)
        assert await node.deposit(deposit) is None
        assert proxy.asked.count("eth_sendRawTransaction") == 1
        assert (await node.channel(deposit.channel_id)).balance == deposit.amount


async def test_a_lost_reply_to_a_sent_transaction_costs_nothing(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with RpcProxy(devnet.url) as proxy, node_of(devnet, proxy.url) as node:
        proxy.faults["eth_sendRawTransaction"] = once(deaf)
        deposit = payer.deposit(payer.config(node.receiver_authorizer))
        assert await node.deposit(deposit) is not None
        assert (await node.channel(deposit.channel_id)).balance == deposit.amount


@pytest.mark.parametrize(
    "words", ["nonce too low", "replacement transaction underpriced", "OldNonce"]
)
async def test_a_wrong_transaction_number_is_mended(devnet: Devnet, words: str) -> None:
    payer = rich_payer(devnet)
    async with RpcProxy(devnet.url) as proxy, node_of(devnet, proxy.url) as node:
        proxy.faults["eth_sendRawTransaction"] = once(error(-32000, words))
        assert await node.deposit(payer.deposit(payer.config(node.receiver_authorizer)))


async def test_transaction_numbers_that_are_always_wrong_are_given_up(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with RpcProxy(devnet.url) as proxy, node_of(devnet, proxy.url) as node:
        proxy.faults["eth_sendRawTransaction"] = error(-32000, "nonce too low")
        with pytest.raises(ChainUnavailable) as failure:
            await node.deposit(payer.deposit(payer.config(node.receiver_authorizer)))
        assert not isinstance(failure.value, TransactionPending)


async def test_a_refused_transaction_leaves_the_next_one_its_number(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with RpcProxy(devnet.url) as proxy, node_of(devnet, proxy.url) as node:
        deposit = payer.deposit(payer.config(node.receiver_authorizer))
        proxy.faults["eth_sendRawTransaction"] = error(-32000, "transaction underpriced")
        with pytest.raises(ChainUnavailable):
            await node.deposit(deposit)
        del proxy.faults["eth_sendRawTransaction"]
        assert await node.deposit(deposit) is not None


async def test_a_caller_that_hangs_up_leaves_the_line_in_order(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with RpcProxy(devnet.url) as proxy, node_of(devnet, proxy.url) as node:
        proxy.faults["eth_sendRawTransaction"] = proxy.stall
        hasty = payer.deposit(payer.config(node.receiver_authorizer))
        task = asyncio.create_task(node.deposit(hasty))
        await eventually(lambda: "eth_sendRawTransaction" in proxy.asked)
        task.cancel()
        await asyncio.wait([task])
        del proxy.faults["eth_sendRawTransaction"]
        for deposit in (payer.deposit(payer.config(node.receiver_authorizer)), hasty):
            assert await node.deposit(deposit) is not None


@pytest.mark.parametrize(
    "lie",
    [
        lambda receipt: {**receipt, "transactionHash": "0x" + "11" * 32},
        lambda receipt: {**receipt, "blockNumber": None},
        lambda receipt: {**receipt, "status": "success"},
        lambda receipt: {},
        lambda receipt: [receipt],
    ],
)
async def test_case_25_a_receipt_that_cannot_be_ours_leaves_the_transaction_pending(
    devnet: Devnet, lie: object
) -> None:
    payer = rich_payer(devnet)
    async with (
        RpcProxy(devnet.url) as proxy,
        node_of(devnet, proxy.url, timeout_seconds=1.5) as node,
    ):
        proxy.faults["eth_getTransactionReceipt"] = edited(lie)
        with pytest.raises(TransactionPending):
            await node.deposit(payer.deposit(payer.config(node.receiver_authorizer)))


async def test_a_deposit_that_reverts_when_mined_is_refused(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with RpcProxy(devnet.url) as proxy, node_of(devnet, proxy.url) as node:
        proxy.faults["eth_estimateGas"] = result(hex(400_000))
        config = payer.config(node.receiver_authorizer)
        with pytest.raises(Refused) as refusal:
            await node.deposit(rich_payer(devnet).deposit(config))
    assert refusal.value.reason is Reason.DEPOSIT_FAILED


async def test_a_deposit_that_somebody_else_was_faster_with_is_none(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    other_key = devnet.accounts[1].key
    async with (
        RpcProxy(devnet.url) as proxy,
        node_of(devnet, proxy.url) as node,
        node_of(devnet, key=other_key) as other,
    ):
        deposit = payer.deposit(payer.config(node.receiver_authorizer))

        async def overtaken(forward: Forward) -> web.StreamResponse:
            answer = await forward()
            await other.deposit(deposit)
            return web.json_response(answer)

        proxy.faults["eth_estimateGas"] = once(overtaken)
        assert await node.deposit(deposit) is None
        assert (await node.channel(deposit.channel_id)).balance == deposit.amount


async def test_a_claim_that_reverts_when_mined_names_its_transaction(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with RpcProxy(devnet.url) as proxy, node_of(devnet, proxy.url) as node:
        channel = await funded(node, payer, 2_000_000)
        proxy.faults["eth_estimateGas"] = result(hex(400_000))
        with pytest.raises(Reverted) as reverted:
            await node.claim(batch_of(node, channel))
    assert reverted.value.transaction is not None


async def test_case_35_gas_above_the_owners_ceiling_is_not_paid(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with RpcProxy(devnet.url) as proxy, node_of(devnet, proxy.url, max_fee_wei=1) as node:
        with pytest.raises(ChainUnavailable, match="gas is too dear"):
            await node.deposit(payer.deposit(payer.config(node.receiver_authorizer)))
        assert "eth_sendRawTransaction" not in proxy.asked


async def test_an_absurd_price_of_gas_is_not_paid(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with RpcProxy(devnet.url) as proxy, node_of(devnet, proxy.url) as node:
        proxy.faults["eth_maxPriorityFeePerGas"] = result(hex(10**18))
        with pytest.raises(ChainUnavailable, match="absurd price"):
            await node.deposit(payer.deposit(payer.config(node.receiver_authorizer)))


async def test_a_chain_without_a_base_fee_is_paid_the_old_way(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with RpcProxy(devnet.url) as proxy, node_of(devnet, proxy.url) as node:
        proxy.faults["eth_getBlockByNumber"] = result({"number": "0x1"})
        assert await node.deposit(payer.deposit(payer.config(node.receiver_authorizer)))


async def test_a_chain_that_names_no_tip_is_asked_for_its_price(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with RpcProxy(devnet.url) as proxy, node_of(devnet, proxy.url) as node:
        proxy.faults["eth_maxPriorityFeePerGas"] = error(-32601, "method not found")
        assert await node.deposit(payer.deposit(payer.config(node.receiver_authorizer)))
