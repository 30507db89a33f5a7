"""Every verb of a node, against the embedded chain."""

import asyncio
import pickle

import msgspec
import pytest
from coincurve import PrivateKey
from helpers.chain import (
    ASSET,
    FUNDS,
    NETWORK,
    Payer,
    address_of_account,
    batch_of,
    eventually,
    funded,
    new_address,
    node_of,
    rich_payer,
    send_as,
)
from starlette.applications import Starlette

from paywall import Paywall
from paywall.chain import contract
from paywall.chain.devnet import Devnet
from paywall.chain.facilitator import Facilitator
from paywall.chain.node import Node
from paywall.protocol import eip712
from paywall.protocol.errors import (
    ChainUnavailable,
    ConfigurationError,
    OutOfGas,
    Reason,
    Refused,
    Reverted,
)
from paywall.protocol.money import USDC, Asset
from paywall.protocol.schemes.batch import sign_voucher
from paywall.protocol.x402 import show_address


async def test_an_unknown_channel_is_all_zeros(devnet: Devnet) -> None:
    async with node_of(devnet, clock=lambda: 1234.5) as node:
        state = await node.channel(bytes(32))
    assert state.balance == state.claimed == state.refund_nonce == state.withdraw_requested_at == 0
    assert state.read_at_ms == 1_234_500


@pytest.mark.parametrize("asset", [USDC.base, USDC.arbitrum, USDC.polygon])
async def test_a_wrong_chain_behind_the_rpc_is_refused_at_start(
    devnet: Devnet, asset: Asset
) -> None:
    node = Node(devnet.url, devnet.accounts[0].key, network=asset.network)
    told = f"wrong chain behind the RPC: .* is on {NETWORK}"
    with pytest.raises(ConfigurationError, match=told):
        await node.open()
    reads = Facilitator("http://127.0.0.1:9", reads=devnet.url, network=asset.network)
    with pytest.raises(ConfigurationError, match=told):
        await reads.open()
    wall = Paywall(
        Starlette(),
        prices={"/priced": "$0.01"},
        pay_to=show_address(new_address()),
        asset=asset,
        chain=node,
        store="memory://",
    )
    with pytest.raises(ConfigurationError, match=told):
        await wall.open()


async def test_a_deposit_fills_the_channel_by_exactly_its_amount(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with node_of(devnet) as node:
        deposit = payer.deposit(payer.config(node.receiver_authorizer), 700_000)
        mined = await node.deposit(deposit)
        state = await node.channel(deposit.channel_id)
        assert await node.token_balance(ASSET.address, payer.address) == FUNDS - 700_000
    assert mined is not None
    assert (state.balance, state.claimed) == (700_000, 0)
    assert state.block >= mined.block
    assert len(mined.transaction) == 32
    assert mined.gas > 21_000
    assert mined.fee_wei > mined.gas


async def test_case_17_the_same_deposit_again_is_none_and_moves_nothing(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with node_of(devnet) as node, node_of(devnet, key=devnet.accounts[1].key) as other:
        deposit = payer.deposit(payer.config(node.receiver_authorizer))
        assert await node.deposit(deposit) is not None
        assert await node.deposit(deposit) is None
        assert await other.deposit(deposit) is None
        assert (await node.channel(deposit.channel_id)).balance == deposit.amount


async def test_case_17_many_copies_of_a_deposit_at_once_are_one_transaction(
    devnet: Devnet,
) -> None:
    payer = rich_payer(devnet)
    async with node_of(devnet) as node:
        deposit = payer.deposit(payer.config(node.receiver_authorizer))
        outcomes = await asyncio.gather(*(node.deposit(deposit) for _ in range(50)))
        assert (await node.channel(deposit.channel_id)).balance == deposit.amount
    assert sum(outcome is not None for outcome in outcomes) == 1


async def test_twenty_deposits_at_once_all_arrive(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with node_of(devnet) as node:
        deposits = [
            payer.deposit(payer.config(node.receiver_authorizer), 10_000 + n) for n in range(20)
        ]
        mined = await asyncio.gather(*map(node.deposit, deposits))
        states = await asyncio.gather(*(node.channel(d.channel_id) for d in deposits))
    assert len({m.transaction for m in mined if m}) == 20
    assert [state.balance for state in states] == [deposit.amount for deposit in deposits]


async def test_two_nodes_with_one_gas_key_find_their_place_in_line_again(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with node_of(devnet) as one, node_of(devnet) as other:
        for node in (one, other, one, one, other):
            assert await node.deposit(payer.deposit(payer.config(one.receiver_authorizer)))


async def test_case_22_a_deposit_above_the_payers_balance_is_refused(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with node_of(devnet) as node:
        deposit = payer.deposit(payer.config(node.receiver_authorizer), FUNDS + 1)
        with pytest.raises(Refused) as refusal:
            await node.deposit(deposit)
    assert refusal.value.reason is Reason.PAYER_BALANCE


async def test_case_21_a_deposit_that_somebody_else_signed_is_refused(devnet: Devnet) -> None:
    payer, stranger = rich_payer(devnet), Payer()
    async with node_of(devnet) as node:
        config = payer.config(node.receiver_authorizer)
        with pytest.raises(Refused, match="FiatTokenV2: invalid signature") as refusal:
            await node.deposit(stranger.deposit(config))
    assert refusal.value.reason is Reason.DEPOSIT_FAILED


@pytest.mark.parametrize(
    "changes", [{"valid_before": 1_700_000_000}, {"valid_after": 2**40}], ids=["expired", "early"]
)
async def test_case_20_a_deposit_outside_its_time_is_refused(
    devnet: Devnet, changes: dict[str, int]
) -> None:
    payer = rich_payer(devnet)
    async with node_of(devnet) as node:
        deposit = payer.deposit(payer.config(node.receiver_authorizer), **changes)
        with pytest.raises(Refused, match="authorization is") as refusal:
            await node.deposit(deposit)
    assert refusal.value.reason is Reason.DEPOSIT_FAILED


async def test_a_claim_of_several_channels_then_a_settlement_moves_exactly_the_sum(
    devnet: Devnet,
) -> None:
    payer, receiver = rich_payer(devnet), new_address()
    async with node_of(devnet) as node:
        channels = [
            await funded(node, payer, charged, receiver=receiver)
            for charged in (100, 2_000, 30_000)
        ]
        await node.claim(batch_of(node, *channels))
        states = [await node.channel(channel.channel_id) for channel in channels]
        assert [state.claimed for state in states] == [100, 2_000, 30_000]
        assert await node.token_balance(ASSET.address, receiver) == 0
        assert await node.settle(receiver, ASSET.address) is not None
        assert await node.token_balance(ASSET.address, receiver) == 32_100
        assert await node.settle(receiver, ASSET.address) is None
        assert await node.token_balance(ASSET.address, receiver) == 32_100


async def test_a_claim_takes_what_was_charged_and_not_what_was_signed(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with node_of(devnet) as node:
        channel = await funded(node, payer, 500)
        signed = sign_voucher(payer.key, eip712.settlement_domain(84532), channel.channel_id, 900)
        await node.claim(batch_of(node, msgspec.structs.replace(channel, voucher=signed)))
        assert (await node.channel(channel.channel_id)).claimed == 500


async def test_case_35_a_claim_repeated_claims_nothing_twice(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with node_of(devnet) as node:
        channel = await funded(node, payer, 500)
        await node.claim(batch_of(node, channel))
        await node.claim(batch_of(node, channel))
        assert (await node.channel(channel.channel_id)).claimed == 500
        await node.settle(channel.config.receiver, ASSET.address)
        assert await node.token_balance(ASSET.address, channel.config.receiver) == 500


async def test_case_34_a_poison_row_reverts_its_batch_and_claims_nothing(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with node_of(devnet) as node:
        good, bad = await funded(node, payer, 500), await funded(node, payer, 500)
        forged = sign_voucher(PrivateKey(), eip712.settlement_domain(84532), bad.channel_id, 500)
        bad = msgspec.structs.replace(bad, voucher=forged)
        with pytest.raises(Reverted, match="InvalidSignature") as error:
            await node.claim(batch_of(node, good, bad))
        assert (await node.channel(good.channel_id)).claimed == 0
    assert error.value.transaction is None


async def test_a_claim_for_another_authorizer_is_the_owners_mistake(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with node_of(devnet) as node, node_of(devnet, key=devnet.accounts[1].key) as other:
        channel = await funded(node, payer, 500)
        with pytest.raises(ConfigurationError, match="authorizer key"):
            await other.claim(batch_of(node, channel))


async def test_the_authorizer_may_be_a_key_that_never_pays_gas(devnet: Devnet) -> None:
    payer, authorizer = rich_payer(devnet), PrivateKey()
    async with node_of(devnet, authorizer_key=authorizer.secret) as node:
        assert node.receiver_authorizer == eip712.address_of(authorizer)
        assert node.gas_wallet == address_of_account(devnet, 0)
        channel = await funded(node, payer, 500)
        await node.claim(batch_of(node, channel))
        assert (await node.channel(channel.channel_id)).claimed == 500


@pytest.mark.parametrize("charged", [0, 300_000], ids=["nothing unclaimed", "some unclaimed"])
async def test_case_38_a_refund_claims_first_and_returns_exactly_the_amount(
    devnet: Devnet, charged: int
) -> None:
    payer = rich_payer(devnet)
    async with node_of(devnet) as node:
        channel = await funded(node, payer, charged)
        await node.refund(channel, 600_000)
        state = await node.channel(channel.channel_id)
        assert await node.token_balance(ASSET.address, payer.address) == FUNDS - 400_000
    assert (state.balance, state.claimed, state.refund_nonce) == (400_000, charged, 1)


async def test_case_38_the_same_refund_twice_pays_once(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with node_of(devnet) as node:
        channel = await funded(node, payer, 300_000)
        await node.refund(channel, 200_000)
        with pytest.raises(Reverted, match="InvalidRefundNonce"):
            await node.refund(channel, 200_000)
        assert await node.token_balance(ASSET.address, payer.address) == FUNDS - 800_000


async def test_case_38_a_refund_of_what_is_gone_uses_its_nonce_up_and_says_that_nothing_moved(
    devnet: Devnet,
) -> None:
    async with node_of(devnet) as node:
        channel = await funded(node, rich_payer(devnet), 0)
        await node.refund(channel, 1_000_000)
        emptied = msgspec.structs.replace(channel, chain=await node.channel(channel.channel_id))
        with pytest.raises(ChainUnavailable, match="did not move"):
            await node.refund(emptied, 1_000_000)
        state = await node.channel(channel.channel_id)
        assert (state.balance, state.refund_nonce) == (0, 2)


async def test_case_38_a_refund_whose_claim_fails_returns_nothing(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with node_of(devnet) as node:
        channel = await funded(node, payer, 1_500_000)
        with pytest.raises(Reverted, match="ClaimExceedsBalance"):
            await node.refund(channel, 500_000)
        assert (await node.channel(channel.channel_id)).balance == 1_000_000


async def test_case_33_a_pending_withdrawal_is_seen(devnet: Devnet) -> None:
    account = devnet.accounts[2]
    payer = Payer(PrivateKey(bytes.fromhex(account.key[2:])))
    async with node_of(devnet) as node:
        channel = await funded(node, payer, 100)
        await send_as(
            devnet, account.key, contract.encode_initiate_withdraw(channel.config, 400_000)
        )
        state = await node.channel(channel.channel_id)
    assert state.withdraw_amount == 400_000
    assert state.withdraw_requested_at > 1_700_000_000


async def test_case_32_a_deposit_counts_when_it_has_its_confirmations(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with node_of(devnet) as eager, node_of(devnet, confirmations=3) as patient:
        deposit = payer.deposit(payer.config(eager.receiver_authorizer))
        waiting = asyncio.create_task(patient.deposit(deposit))
        await eventually(lambda: devnet.usdc_balance(show_address(payer.address)) < FUNDS)
        assert (await patient.channel(deposit.channel_id)).balance == 0
        assert not waiting.done()
        devnet.mine(2)
        assert await waiting is not None
        assert (await patient.channel(deposit.channel_id)).balance == deposit.amount


async def test_case_35_a_gas_wallet_without_ether_is_named(devnet: Devnet) -> None:
    payer = rich_payer(devnet)
    async with node_of(devnet, key=PrivateKey().secret) as node:
        with pytest.raises(OutOfGas, match=r"0x[0-9a-fA-F]{40} is empty on eip155:84532"):
            await node.deposit(payer.deposit(payer.config(node.receiver_authorizer)))
        assert await node.gas_balance_wei() == 0


async def test_an_rpc_of_another_chain_is_a_configuration_error(devnet: Devnet) -> None:
    with pytest.raises(ConfigurationError, match=r"eip155:84532, and eip155:8453 is asked for"):
        async with node_of(devnet, network="eip155:8453"):
            raise AssertionError("opened")


@pytest.mark.parametrize("key", ["", "0x12", "zz" * 32, b"short", "00" * 32, "ff" * 32])
def test_case_53_a_key_that_is_none_is_refused_and_not_shown(key: str | bytes) -> None:
    with pytest.raises(ConfigurationError, match="the gas key is not a private key") as error:
        Node("http://127.0.0.1", key)
    assert "zz" not in str(error.value)
    assert "ffff" not in str(error.value)


@pytest.mark.parametrize("url", ["", "ftp://a/", "wss://a/", "http://", "http://a:x/", "host"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="the RPC is not a URL"):
        Node(url, b"1" * 32)


def test_case_53_a_node_shows_neither_keys_nor_the_secrets_of_its_url() -> None:
    node = Node("https://user:hunter2@rpc.example/v2/apikey", "0x" + "ab" * 32)
    shown = f"{node!r} {node} {node.network}"
    assert "rpc.example" in shown
    for secret in ("hunter2", "user", "apikey", "abab"):
        assert secret not in shown
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(node)


async def test_a_node_may_be_closed_unopened_and_twice() -> None:
    node = Node("http://127.0.0.1", b"1" * 32, network=NETWORK)
    await node.close()
    await node.close()
