"""Our Vyper contracts behave as the canonical ones are specified to."""

from typing import Any

import pytest
from eth_abi import abi
from eth_account import Account
from eth_utils import keccak
from kit import FAR, USDC, ZERO, Kit, bare_v, high_s, sign, typed_digest
from msgspec.structs import replace
from x402.mechanisms.evm.batch_settlement.abi import BATCH_SETTLEMENT_ABI
from x402.mechanisms.evm.constants import (
    EIP2612_NONCES_ABI,
    MULTICALL3_TRY_AGGREGATE_ABI,
    TRANSFER_WITH_AUTHORIZATION_BYTES_ABI,
    TRANSFER_WITH_AUTHORIZATION_VRS_ABI,
)

from paywall.chain.contract import (
    COLLECTOR_ADDRESS,
    SETTLEMENT_ADDRESS,
    ClaimRow,
    PendingWithdrawal,
    ReceiverTotals,
    decode_authorization_state,
    decode_pending_withdrawals,
    decode_receivers,
    encode_authorization_state,
    encode_claim,
    encode_claim_with_signature,
    encode_deposit,
    encode_finalize_withdraw,
    encode_initiate_withdraw,
    encode_multicall,
    encode_pending_withdrawals,
    encode_receivers,
    encode_refund,
    encode_refund_nonce,
    encode_refund_with_signature,
    encode_settle,
    encode_transfer_with_authorization,
    topic_of,
)
from paywall.chain.contracts import CONTRACTS, artifact
from paywall.chain.contracts.build import HERE, compile_all
from paywall.chain.devnet_chain import GAS_LIMIT
from paywall.chain.events import (
    AuthorizationUsed,
    ChannelClosed,
    ChannelCreated,
    Claimed,
    Deposited,
    Refunded,
    Settled,
    Transfer,
    WithdrawFinalized,
    WithdrawInitiated,
)
from paywall.protocol.channel import ChannelConfig

CONFIG = "(address,address,address,address,address,uint40,bytes32)"
CLAIMS = f"(({CONFIG},uint128),bytes,uint128)[]"


def call(name: str, types: list[str], *values: object) -> bytes:
    return keccak(f"{name}({','.join(types)})".encode())[:4] + abi.encode(types, values)


def as_tuple(config: ChannelConfig) -> tuple[object, ...]:
    return (
        config.payer,
        config.payer_authorizer,
        config.receiver,
        config.receiver_authorizer,
        config.token,
        config.withdraw_delay_seconds,
        config.salt,
    )


def claim_with_signature(kit: Kit, *rows: ClaimRow) -> bytes:
    return encode_claim_with_signature(rows, sign(kit.authorizer, kit.batch_digest(list(rows))))


def refund_with_signature(kit: Kit, config: ChannelConfig, amount: int, nonce: int) -> bytes:
    signature = sign(kit.authorizer, kit.refund_digest(config, nonce, amount))
    return encode_refund_with_signature(config, amount, nonce, signature)


def settled(kit: Kit) -> ReceiverTotals:
    return decode_receivers(kit.view(encode_receivers(kit.receiver.raw, USDC)))


# -- Artifacts and digests ------------------------------------------------------------------------


def test_the_shipped_artifacts_are_what_the_sources_compile_to() -> None:
    shipped = {name: (HERE / "artifacts" / f"{name}.json").read_text() for name in CONTRACTS}
    assert compile_all() == shipped


def canonical(parameter: dict[str, Any]) -> str:
    kind = str(parameter["type"])
    if not kind.startswith("tuple"):
        return kind
    inner = ",".join(canonical(field) for field in parameter["components"])
    return f"({inner}){kind[5:]}"


def functions(abi: list[dict[str, Any]]) -> set[tuple[str, ...]]:
    return {
        (e["name"], *(",".join(map(canonical, e.get(side, []))) for side in ("inputs", "outputs")))
        for e in abi
        if e["type"] == "function"
    }


def test_the_interfaces_hold_what_the_official_sdk_calls() -> None:
    assert functions(BATCH_SETTLEMENT_ABI) <= functions(artifact("BatchSettlement").abi)
    token = functions(artifact("Usdc").abi)
    assert functions(TRANSFER_WITH_AUTHORIZATION_BYTES_ABI) <= token
    assert functions(TRANSFER_WITH_AUTHORIZATION_VRS_ABI) <= token
    assert functions(EIP2612_NONCES_ABI) <= token
    assert functions(MULTICALL3_TRY_AGGREGATE_ABI) <= functions(artifact("Multicall3").abi)


def test_the_code_stands_at_the_canonical_addresses(kit: Kit) -> None:
    assert bytes(kit.web3.eth.get_code(kit.devnet.usdc)) == artifact("Usdc").runtime
    at = "0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003"
    assert bytes(kit.web3.eth.get_code(at)) == artifact("BatchSettlement").runtime


def test_digests_are_those_of_eth_account(kit: Kit) -> None:
    config = kit.config()
    channel_id = kit.channel_id(config)
    rows = [kit.row(config, 5, 9), kit.row(kit.config(), 7)]
    claims = [((as_tuple(r.config), r.amount), r.signature, r.claimed) for r in rows]
    assert kit.view(call("getChannelId", [CONFIG], as_tuple(config))) == channel_id
    assert kit.view(
        call("getVoucherDigest", ["bytes32", "uint128"], channel_id, 9)
    ) == kit.voucher_digest(config, 9)
    assert kit.view(
        call("getRefundDigest", ["bytes32", "uint256", "uint128"], channel_id, 3, 4)
    ) == kit.refund_digest(config, 3, 4)
    assert kit.view(call("getClaimBatchDigest", [CLAIMS], claims)) == kit.batch_digest(rows)
    assert kit.view(call("getClaimBatchDigest", [CLAIMS], [])) == kit.batch_digest([])


def test_the_domain_is_told_as_erc_5267_wants_it(kit: Kit) -> None:
    types = ["bytes1", "string", "string", "uint256", "address", "bytes32", "uint256[]"]
    told = abi.decode(types, kit.view(call("eip712Domain", [])))
    assert told == (
        b"\x0f",
        "x402 Batch Settlement",
        "1",
        kit.devnet.chain_id,
        "0x" + SETTLEMENT_ADDRESS.hex(),
        bytes(32),
        (),
    )


def test_the_token_domain_separator_is_that_of_eth_account(kit: Kit) -> None:
    separator = kit.view(call("DOMAIN_SEPARATOR", []), USDC)
    fields = [("authorizer", "address"), ("nonce", "bytes32")]
    message = {"authorizer": kit.payer.raw, "nonce": bytes(32)}
    digest = typed_digest(kit.token_domain(), "CancelAuthorization", fields, message)
    kind = keccak(b"CancelAuthorization(address authorizer,bytes32 nonce)")
    struct = keccak(kind + bytes(12) + kit.payer.raw + bytes(32))
    assert digest == keccak(b"\x19\x01" + separator + struct)


def test_constants_are_public(kit: Kit) -> None:
    assert int.from_bytes(kit.view(call("MIN_WITHDRAW_DELAY", []))) == 900
    assert int.from_bytes(kit.view(call("MAX_WITHDRAW_DELAY", []))) == 2_592_000
    voucher = keccak(b"Voucher(bytes32 channelId,uint128 maxClaimableAmount)")
    assert kit.view(call("VOUCHER_TYPEHASH", [])) == voucher
    collector = kit.view(call("x402BatchSettlement", []), COLLECTOR_ADDRESS)
    assert collector == bytes(12) + SETTLEMENT_ADDRESS


# -- Deposits -------------------------------------------------------------------------------------


def test_a_first_deposit_creates_the_channel_and_moves_the_money(kit: Kit) -> None:
    config = kit.config()
    before = kit.devnet.usdc_balance(kit.payer.address)
    sent = kit.deposit(config, 1000)
    channel_id = kit.channel_id(config)
    nonce = keccak(channel_id + (1).to_bytes(32, "big"))
    assert sent.events == [
        AuthorizationUsed(USDC, kit.payer.raw, nonce),
        Transfer(USDC, kit.payer.raw, COLLECTOR_ADDRESS, 1000),
        Transfer(USDC, COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS, 1000),
        ChannelCreated(channel_id, config),
        Deposited(channel_id, kit.relayer.raw, 1000, 1000),
    ]
    assert kit.totals(config) == (1000, 0)
    assert kit.devnet.usdc_balance(kit.payer.address) == before - 1000


def test_a_second_deposit_adds_to_the_channel(kit: Kit) -> None:
    config = kit.config()
    kit.deposit(config, 1000)
    events = kit.deposit(config, 500, salt=2).events
    assert events[-1] == Deposited(kit.channel_id(config), kit.relayer.raw, 500, 1500)
    assert not any(isinstance(event, ChannelCreated) for event in events)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"payer": ZERO}, "InvalidChannel"),
        ({"receiver": ZERO}, "InvalidChannel"),
        ({"receiver_authorizer": ZERO}, "InvalidChannel"),
        ({"token": ZERO}, "InvalidChannel"),
        ({"withdraw_delay_seconds": 899}, "WithdrawDelayOutOfRange"),
        ({"withdraw_delay_seconds": 2_592_001}, "WithdrawDelayOutOfRange"),
    ],
)
def test_a_config_that_cannot_work_takes_no_deposit(
    kit: Kit, changes: dict[str, object], refusal: str
) -> None:
    assert kit.refusal(kit.relayer, kit.deposit_call(kit.config(**changes), 1)) == refusal


@pytest.mark.parametrize("delay", [900, 2_592_000])
def test_the_bounds_of_the_delay_are_allowed(kit: Kit, delay: int) -> None:
    config = kit.config(withdraw_delay_seconds=delay)
    kit.deposit(config, 1)
    assert kit.totals(config) == (1, 0)


def test_nothing_and_nobody_are_no_deposit_and_no_collector(kit: Kit) -> None:
    config = kit.config()
    assert kit.refusal(kit.relayer, kit.deposit_call(config, 0)) == "ZeroDeposit"
    call = encode_deposit(config, 1, ZERO, b"")
    assert kit.refusal(kit.relayer, call) == "InvalidCollector"


def test_a_balance_never_overflows(kit: Kit) -> None:
    config = kit.config()
    kit.deposit(config, 1)
    assert kit.refusal(kit.relayer, kit.deposit_call(config, 2**128 - 1)) == "DepositOverflow"


def test_a_collector_that_brings_nothing_is_found_out(kit: Kit) -> None:
    idle = bytes.fromhex("00000000000000000000000000000000000000dd")
    # Code that stops at once: it takes any call and does nothing.
    code = "600180600a3d393df300"
    created = kit.web3.eth.get_transaction_count(kit.stranger.address)
    signed = Account.sign_transaction(
        {
            "chainId": kit.devnet.chain_id,
            "nonce": created,
            "data": "0x" + code,
            "gas": 100_000,
            "gasPrice": kit.web3.eth.gas_price,
            "value": 0,
        },
        kit.stranger.key,
    )
    hashed = kit.web3.eth.send_raw_transaction(signed.raw_transaction)
    receipt = kit.web3.eth.wait_for_transaction_receipt(hashed)
    idle = bytes.fromhex(receipt["contractAddress"][2:])
    call = encode_deposit(kit.config(), 5, idle, b"")
    assert kit.refusal(kit.relayer, call) == "DepositCollectionFailed"


def test_only_the_settlement_contract_collects(kit: Kit) -> None:
    types = ["address", "address", "uint256", "bytes32", "bytes"]
    data = call("collect", types, kit.payer.raw, USDC, 1, bytes(32), b"")
    assert kit.refusal(kit.payer, data, COLLECTOR_ADDRESS) == "OnlyX402BatchSettlement"


def test_an_authorization_is_good_for_its_own_channel_and_once(kit: Kit) -> None:
    config, other = kit.config(), kit.config()
    data = kit.collector_data(config, 10, salt=1)
    stolen = encode_deposit(other, 10, COLLECTOR_ADDRESS, data)
    assert kit.refusal(kit.relayer, stolen) == "FiatTokenV2: invalid signature"
    salted = kit.collector_data(config, 10, salt=1)[:64] + (2).to_bytes(32, "big")
    salted += kit.collector_data(config, 10, salt=1)[96:]
    call = encode_deposit(config, 10, COLLECTOR_ADDRESS, salted)
    assert kit.refusal(kit.relayer, call) == "FiatTokenV2: invalid signature"
    kit.deposit(config, 10)
    again = kit.refusal(kit.relayer, kit.deposit_call(config, 10))
    assert again == "FiatTokenV2: authorization is used or canceled"


# -- Claims ---------------------------------------------------------------------------------------


def test_a_claim_raises_the_total_and_settling_pays_it(kit: Kit) -> None:
    config = kit.config()
    kit.deposit(config, 1000)
    before = kit.devnet.usdc_balance(kit.receiver.address)
    claimed = kit.send(kit.authorizer, encode_claim([kit.row(config, 300, 400)]))
    assert claimed.events == [Claimed(kit.channel_id(config), kit.authorizer.raw, 300, 300)]
    assert (kit.totals(config), settled(kit)) == ((1000, 300), (300, 0))
    paid = kit.send(kit.stranger, encode_settle(kit.receiver.raw, USDC))
    assert paid.events == [
        Transfer(USDC, SETTLEMENT_ADDRESS, kit.receiver.raw, 300),
        Settled(kit.receiver.raw, USDC, kit.stranger.raw, 300),
    ]
    assert settled(kit) == (300, 300)
    assert kit.devnet.usdc_balance(kit.receiver.address) == before + 300


def test_settling_nothing_does_nothing(kit: Kit) -> None:
    assert kit.send(kit.stranger, encode_settle(kit.receiver.raw, USDC)).events == []


def test_receiver_and_authorizer_may_claim_and_a_stranger_may_not(kit: Kit) -> None:
    config = kit.config()
    kit.deposit(config, 1000)
    kit.send(kit.receiver, encode_claim([kit.row(config, 1)]))
    kit.send(kit.authorizer, encode_claim([kit.row(config, 2)]))
    assert kit.totals(config) == (1000, 2)
    data = encode_claim([kit.row(config, 3)])
    assert kit.refusal(kit.stranger, data) == "NotAuthorizedToClaim"
    assert kit.refusal(kit.payer, data) == "NotAuthorizedToClaim"


def test_anyone_may_bring_a_signed_batch_over_several_channels(kit: Kit) -> None:
    one, two = kit.config(), kit.config()
    kit.deposit(one, 1000)
    kit.deposit(two, 1000)
    call = claim_with_signature(kit, kit.row(one, 10), kit.row(two, 20))
    assert kit.send(kit.stranger, call).events == [
        Claimed(kit.channel_id(one), kit.stranger.raw, 10, 10),
        Claimed(kit.channel_id(two), kit.stranger.raw, 20, 20),
    ]
    assert settled(kit) == (30, 0)


def test_a_claim_that_is_not_above_the_record_is_a_no_op(kit: Kit) -> None:
    config = kit.config()
    kit.deposit(config, 1000)
    kit.send(kit.receiver, encode_claim([kit.row(config, 100)]))
    unsigned = ClaimRow(config, 0, b"", 100)
    call = encode_claim([kit.row(config, 100), kit.row(config, 99), unsigned])
    assert kit.send(kit.receiver, call).events == []
    assert kit.totals(config) == (1000, 100)


def test_a_claim_stays_below_ceiling_and_balance(kit: Kit) -> None:
    config = kit.config()
    kit.deposit(config, 1000)
    above = encode_claim([kit.row(config, 401, 400)])
    assert kit.refusal(kit.receiver, above) == "ClaimExceedsCeiling"
    beyond = encode_claim([kit.row(config, 1001)])
    assert kit.refusal(kit.receiver, beyond) == "ClaimExceedsBalance"


@pytest.mark.parametrize(
    ("spelling", "refusal"),
    [
        (high_s, "ECDSAInvalidSignatureS"),
        (bare_v, "ECDSAInvalidSignature"),
        (lambda signature: signature[:64], "ECDSAInvalidSignatureLength"),
        (lambda signature: signature + b"\0", "ECDSAInvalidSignatureLength"),
        (lambda signature: b"", "ECDSAInvalidSignatureLength"),
        (lambda signature: bytes(65), "ECDSAInvalidSignature"),
    ],
)
def test_one_bad_spelling_of_a_voucher_reverts_the_whole_batch(
    kit: Kit, spelling: object, refusal: str
) -> None:
    config, other = kit.config(), kit.config()
    kit.deposit(config, 1000)
    kit.deposit(other, 1000)
    row = kit.row(config, 100)
    bad = ClaimRow(config, 100, spelling(row.signature), 100)  # type: ignore[operator]
    assert kit.refusal(kit.receiver, encode_claim([kit.row(other, 5), bad])) == refusal
    assert kit.totals(other) == (1000, 0)


def test_the_wrong_signer_is_refused(kit: Kit) -> None:
    config = kit.config()
    kit.deposit(config, 1000)
    row = kit.row(config, 100, signer=kit.payer)
    assert kit.refusal(kit.receiver, encode_claim([row])) == "InvalidSignature"


def test_without_a_payer_authorizer_the_payer_signs(kit: Kit) -> None:
    config = kit.config(payer_authorizer=ZERO)
    kit.deposit(config, 1000)
    assert kit.refusal(kit.receiver, encode_claim([kit.row(config, 5)])) == "InvalidSignature"
    row = kit.row(config, 5, signer=kit.payer)
    for bad in (high_s(row.signature), bare_v(row.signature), b""):
        refused = encode_claim([ClaimRow(config, 5, bad, 5)])
        assert kit.refusal(kit.receiver, refused) == "InvalidSignature"
    kit.send(kit.receiver, encode_claim([row]))
    assert kit.totals(config) == (1000, 5)


def test_an_empty_batch_is_refused(kit: Kit) -> None:
    assert kit.refusal(kit.receiver, encode_claim([])) == "EmptyBatch"
    assert kit.refusal(kit.receiver, encode_claim_with_signature([], b"")) == "EmptyBatch"


def test_the_batch_signature_is_the_authorizers_over_exactly_this_batch(kit: Kit) -> None:
    config = kit.config()
    kit.deposit(config, 1000)
    row = kit.row(config, 100, 200)
    digest = kit.batch_digest([row])
    good = sign(kit.authorizer, digest)
    for bad in (sign(kit.receiver, digest), high_s(good), bare_v(good), b""):
        call = encode_claim_with_signature([row], bad)
        assert kit.refusal(kit.stranger, call) == "InvalidSignature"
    more = ClaimRow(config, 200, row.signature, 101)
    call = encode_claim_with_signature([more], good)
    assert kit.refusal(kit.stranger, call) == "InvalidSignature"


def test_a_batch_has_one_authorizer(kit: Kit) -> None:
    mine, other = kit.config(), kit.config(receiver_authorizer=kit.stranger.raw)
    kit.deposit(mine, 10)
    kit.deposit(other, 10)
    call = claim_with_signature(kit, kit.row(mine, 1), kit.row(other, 1))
    assert kit.refusal(kit.stranger, call) == "NotReceiverAuthorizer"


@pytest.mark.parametrize(("rows", "most"), [(1, 250_000), (10, 700_000), (100, 6_000_000)])
def test_a_batch_of_claims_fits_into_a_block(kit: Kit, rows: int, most: int) -> None:
    configs = [kit.config() for _ in range(rows)]
    for config in configs:
        kit.deposit(config, 1000)
    call = claim_with_signature(kit, *(kit.row(config, 7) for config in configs))
    gas = kit.send(kit.relayer, call).gas
    assert gas < most < GAS_LIMIT // 5
    assert settled(kit) == (7 * rows, 0)


# -- Refunds --------------------------------------------------------------------------------------


def test_a_refund_returns_what_is_unclaimed_and_no_more(kit: Kit) -> None:
    config = kit.config()
    kit.deposit(config, 1000)
    kit.send(kit.receiver, encode_claim([kit.row(config, 300)]))
    before = kit.devnet.usdc_balance(kit.payer.address)
    sent = kit.send(kit.receiver, encode_refund(config, 5000))
    assert sent.events == [
        Refunded(kit.channel_id(config), kit.receiver.raw, 700),
        Transfer(USDC, SETTLEMENT_ADDRESS, kit.payer.raw, 700),
    ]
    assert (kit.totals(config), kit.refund_nonce(config)) == ((300, 300), 1)
    assert kit.devnet.usdc_balance(kit.payer.address) == before + 700


def test_the_refund_nonce_advances_even_when_nothing_moves(kit: Kit) -> None:
    config = kit.config()
    assert kit.send(kit.receiver, encode_refund(config, 5)).events == []
    assert kit.refund_nonce(config) == 1
    assert kit.send(kit.stranger, refund_with_signature(kit, config, 5, 1)).events == []
    assert kit.refund_nonce(config) == 2


def test_a_signed_refund_is_good_once_and_for_anyone(kit: Kit) -> None:
    config = kit.config()
    kit.deposit(config, 1000)
    call = refund_with_signature(kit, config, 100, 0)
    sent = kit.send(kit.stranger, call)
    assert sent.events[0] == Refunded(kit.channel_id(config), kit.stranger.raw, 100)
    assert kit.refusal(kit.stranger, call) == "InvalidRefundNonce"
    early = refund_with_signature(kit, config, 100, 2)
    assert kit.refusal(kit.stranger, early) == "InvalidRefundNonce"


def test_a_refund_needs_the_receivers_side(kit: Kit) -> None:
    config = kit.config()
    kit.deposit(config, 1000)
    for sender in (kit.payer, kit.payer_authorizer, kit.stranger):
        assert kit.refusal(sender, encode_refund(config, 1)) == "NotAuthorizedToRefund"
    digest = kit.refund_digest(config, 0, 100)
    for bad in (sign(kit.receiver, digest), high_s(sign(kit.authorizer, digest)), b""):
        call = encode_refund_with_signature(config, 100, 0, bad)
        assert kit.refusal(kit.stranger, call) == "InvalidSignature"
    other = encode_refund_with_signature(config, 101, 0, sign(kit.authorizer, digest))
    assert kit.refusal(kit.stranger, other) == "InvalidSignature"
    assert kit.refusal(kit.receiver, encode_refund(config, 0)) == "ZeroRefund"


def test_a_drained_channel_closes_and_is_created_again(kit: Kit) -> None:
    config = kit.config()
    kit.deposit(config, 1000)
    closed = ChannelClosed(kit.channel_id(config), config)
    assert closed in kit.send(kit.receiver, encode_refund(config, 1000)).events
    assert kit.totals(config) == (0, 0)
    created = ChannelCreated(kit.channel_id(config), config)
    assert created in kit.deposit(config, 10, salt=2).events
    assert kit.totals(config) == (10, 0)


# -- Withdrawals ----------------------------------------------------------------------------------


def pending(kit: Kit, config: ChannelConfig) -> PendingWithdrawal:
    call = encode_pending_withdrawals(kit.channel_id(config))
    return decode_pending_withdrawals(kit.view(call))


@pytest.mark.parametrize("side", ["payer", "payer_authorizer"])
def test_the_payers_side_withdraws_after_the_delay(kit: Kit, side: str) -> None:
    config, sender = kit.config(), getattr(kit, side)
    kit.deposit(config, 1000)
    sent = kit.send(sender, encode_initiate_withdraw(config, 600))
    began = kit.web3.eth.get_block(sent.block)["timestamp"]
    channel_id = kit.channel_id(config)
    assert sent.events == [WithdrawInitiated(channel_id, 600, began + 900)]
    assert pending(kit, config) == (600, began)
    finalize = encode_finalize_withdraw(config)
    assert kit.refusal(sender, finalize) == "WithdrawDelayNotElapsed"
    kit.devnet.travel(900)
    before = kit.devnet.usdc_balance(kit.payer.address)
    assert kit.send(sender, finalize).events == [
        WithdrawFinalized(channel_id, sender.raw, 600),
        Transfer(USDC, SETTLEMENT_ADDRESS, kit.payer.raw, 600),
    ]
    assert (kit.totals(config), pending(kit, config)) == ((400, 0), (0, 0))
    assert kit.devnet.usdc_balance(kit.payer.address) == before + 600
    assert kit.refusal(sender, finalize) == "WithdrawalNotPending"


def test_a_withdrawal_is_capped_at_what_is_unclaimed_when_it_ends(kit: Kit) -> None:
    config = kit.config()
    kit.deposit(config, 1000)
    kit.send(kit.payer, encode_initiate_withdraw(config, 1000))
    kit.send(kit.receiver, encode_claim([kit.row(config, 250)]))
    kit.devnet.travel(900)
    sent = kit.send(kit.payer, encode_finalize_withdraw(config))
    assert sent.events[0] == WithdrawFinalized(kit.channel_id(config), kit.payer.raw, 750)
    assert kit.totals(config) == (250, 250)


def test_a_voucher_that_was_not_claimed_in_time_is_lost(kit: Kit) -> None:
    config = kit.config()
    kit.deposit(config, 1000)
    kit.send(kit.payer, encode_initiate_withdraw(config, 1000))
    kit.devnet.travel(900)
    events = kit.send(kit.payer, encode_finalize_withdraw(config)).events
    assert ChannelClosed(kit.channel_id(config), config) in events
    late = encode_claim([kit.row(config, 250)])
    assert kit.refusal(kit.receiver, late) == "ClaimExceedsBalance"


def test_a_withdrawal_of_nothing_left_ends_quietly(kit: Kit) -> None:
    config = kit.config()
    kit.deposit(config, 1000)
    kit.send(kit.payer, encode_initiate_withdraw(config, 1000))
    kit.send(kit.receiver, encode_claim([kit.row(config, 1000)]))
    kit.devnet.travel(900)
    sent = kit.send(kit.payer, encode_finalize_withdraw(config))
    assert sent.events == [WithdrawFinalized(kit.channel_id(config), kit.payer.raw, 0)]


def test_what_cannot_be_withdrawn_is_refused(kit: Kit) -> None:
    config = kit.config()
    kit.deposit(config, 1000)
    for sender in (kit.receiver, kit.authorizer, kit.stranger):
        start = encode_initiate_withdraw(config, 1)
        assert kit.refusal(sender, start) == "InvalidChannel"
        end = encode_finalize_withdraw(config)
        assert kit.refusal(sender, end) == "NotAuthorizedToFinalizeWithdraw"
    nothing = encode_initiate_withdraw(config, 0)
    assert kit.refusal(kit.payer, nothing) == "NothingToWithdraw"
    too_much = encode_initiate_withdraw(config, 1001)
    assert kit.refusal(kit.payer, too_much) == "WithdrawAmountExceedsAvailable"
    kit.send(kit.payer, encode_initiate_withdraw(config, 1))
    again = encode_initiate_withdraw(config, 1)
    assert kit.refusal(kit.payer, again) == "WithdrawalAlreadyPending"


def test_a_refund_takes_from_a_pending_withdrawal(kit: Kit) -> None:
    config = kit.config()
    kit.deposit(config, 1000)
    kit.send(kit.payer, encode_initiate_withdraw(config, 600))
    kit.send(kit.receiver, encode_refund(config, 200))
    assert pending(kit, config).amount == 400
    kit.send(kit.receiver, encode_refund(config, 400))
    assert pending(kit, config) == (0, 0)
    assert kit.totals(config) == (400, 0)


# -- Several at once ------------------------------------------------------------------------------


def test_a_multicall_does_all_of_it_or_nothing(kit: Kit) -> None:
    config = kit.config()
    kit.deposit(config, 1000)
    claim = claim_with_signature(kit, kit.row(config, 100))
    refund = refund_with_signature(kit, config, 2000, 0)
    settle = encode_settle(kit.receiver.raw, USDC)
    broken = encode_multicall([claim, encode_refund(config, 1)])
    assert kit.refusal(kit.stranger, broken) == "NotAuthorizedToRefund"
    sent = kit.send(kit.stranger, encode_multicall([claim, refund, settle]))
    assert kit.totals(config) == (100, 100)
    assert settled(kit) == (100, 100)
    assert sent.events[0] == Claimed(kit.channel_id(config), kit.stranger.raw, 100, 100)
    assert sent.gas < 500_000


def test_a_multicall_returns_what_its_calls_return(kit: Kit) -> None:
    config = kit.config()
    kit.deposit(config, 1000)
    reads = [encode_refund_nonce(bytes(32)), call("getChannelId", [CONFIG], as_tuple(config))]
    (results,) = abi.decode(["bytes[]"], kit.view(encode_multicall(reads)))
    assert results == (bytes(32), kit.channel_id(config))


def test_a_multicall_carries_a_hundred_claims_and_sixteen_calls(kit: Kit) -> None:
    config = kit.config()
    kit.deposit(config, 1000)
    rows = [kit.row(config, i) for i in range(1, 101)]
    kit.send(kit.stranger, encode_multicall([claim_with_signature(kit, *rows)]))
    assert kit.totals(config) == (1000, 100)
    many = encode_multicall([encode_refund_nonce(bytes(32))] * 16)
    (results,) = abi.decode(["bytes[]"], kit.view(many))
    assert results == (bytes(32),) * 16


def test_an_unknown_function_is_refused(kit: Kit) -> None:
    assert "error" in kit.call(kit.stranger, b"\x12\x34\x56\x78")
    assert "error" in kit.call(kit.stranger, b"")
    assert "error" in kit.call(kit.stranger, b"\x12\x34\x56\x78", USDC)
    assert "error" in kit.call(kit.stranger, b"", USDC)


def test_data_after_the_arguments_does_no_harm(kit: Kit) -> None:
    config = kit.config()
    kit.send(kit.relayer, kit.deposit_call(config, 10) + b"a note by the sender")
    multicall = encode_multicall([encode_refund(config, 3)]) + b"a note"
    kit.send(kit.receiver, multicall)
    assert kit.totals(config) == (7, 0)


# -- The token ------------------------------------------------------------------------------------

WORDS = ["address", "address", "uint256", "uint256", "uint256", "bytes32"]


def authorization(kit: Kit, after: int = 0, before: int = FAR, nonce: int = 1) -> list[object]:
    return [kit.payer.raw, kit.stranger.raw, 25, after, before, nonce.to_bytes(32, "big")]


def in_one_piece(name: str, values: list[object], signature: bytes) -> bytes:
    return call(name, [*WORDS, "bytes"], *values, signature)


def in_three(name: str, values: list[object], signature: bytes) -> bytes:
    parts = (signature[64], signature[:32], signature[32:64])
    return call(name, [*WORDS, "uint8", "bytes32", "bytes32"], *values, *parts)


@pytest.mark.parametrize("form", [in_one_piece, in_three])
@pytest.mark.parametrize("kind", ["Transfer", "Receive"])
def test_an_authorization_moves_money_once(kit: Kit, kind: str, form: object) -> None:
    name = f"{kind.lower()}WithAuthorization"
    values = authorization(kit)
    digest = kit.authorization_digest(f"{kind}WithAuthorization", *values)
    data = form(name, values, sign(kit.payer, digest))  # type: ignore[operator]
    sent = kit.send(kit.stranger, data, USDC)
    nonce = (1).to_bytes(32, "big")
    assert sent.events == [
        AuthorizationUsed(USDC, kit.payer.raw, nonce),
        Transfer(USDC, kit.payer.raw, kit.stranger.raw, 25),
    ]
    state = encode_authorization_state(kit.payer.raw, nonce)
    assert decode_authorization_state(kit.view(state, USDC)) is True
    used = "FiatTokenV2: authorization is used or canceled"
    assert kit.refusal(kit.stranger, data, USDC) == used


@pytest.mark.parametrize("form", [in_one_piece, in_three])
def test_only_the_payee_receives(kit: Kit, form: object) -> None:
    values = authorization(kit)
    digest = kit.authorization_digest("ReceiveWithAuthorization", *values)
    data = form("receiveWithAuthorization", values, sign(kit.payer, digest))  # type: ignore[operator]
    assert kit.refusal(kit.relayer, data, USDC) == "FiatTokenV2: caller must be the payee"


@pytest.mark.parametrize("form", [in_one_piece, in_three])
@pytest.mark.parametrize(
    ("spelling", "refusal"),
    [
        (high_s, "ECRecover: invalid signature 's' value"),
        (bare_v, "ECRecover: invalid signature 'v' value"),
    ],
)
def test_the_token_takes_one_spelling_only(
    kit: Kit, form: object, spelling: object, refusal: str
) -> None:
    values = authorization(kit)
    digest = kit.authorization_digest("TransferWithAuthorization", *values)
    bad = spelling(sign(kit.payer, digest))  # type: ignore[operator]
    data = form("transferWithAuthorization", values, bad)  # type: ignore[operator]
    assert kit.refusal(kit.relayer, data, USDC) == refusal


def test_the_token_checks_the_length_and_the_signer(kit: Kit) -> None:
    values = authorization(kit)
    digest = kit.authorization_digest("TransferWithAuthorization", *values)
    short = encode_transfer_with_authorization(*values, sign(kit.payer, digest)[:64])  # type: ignore[arg-type]
    assert kit.refusal(kit.relayer, short, USDC) == "ECRecover: invalid signature length"
    wrong = encode_transfer_with_authorization(*values, sign(kit.relayer, digest))  # type: ignore[arg-type]
    assert kit.refusal(kit.relayer, wrong, USDC) == "FiatTokenV2: invalid signature"


def test_an_authorization_has_its_time(kit: Kit) -> None:
    now = kit.web3.eth.get_block("latest")["timestamp"]

    def refusal(after: int, before: int) -> str | None:
        values = authorization(kit, after, before)
        digest = kit.authorization_digest("TransferWithAuthorization", *values)
        data = in_one_piece("transferWithAuthorization", values, sign(kit.payer, digest))
        return kit.refusal(kit.relayer, data, USDC)

    assert refusal(now + 60, FAR) == "FiatTokenV2: authorization is not yet valid"
    assert refusal(0, now) == "FiatTokenV2: authorization is expired"


def test_the_bounds_of_the_time_are_themselves_too_late_and_too_early(kit: Kit) -> None:
    moment = kit.web3.eth.get_block("latest")["timestamp"] + 1000
    outcomes = []
    for after, before in ((moment, FAR), (moment - 1, FAR), (0, moment), (0, moment + 1)):
        values = authorization(kit, after, before)
        digest = kit.authorization_digest("TransferWithAuthorization", *values)
        data = in_one_piece("transferWithAuthorization", values, sign(kit.payer, digest))
        snapshot = kit.ask("evm_snapshot")["result"]
        kit.ask("evm_setNextBlockTimestamp", moment)
        kit.ask("evm_mine")
        number = kit.web3.eth.block_number
        while kit.web3.eth.get_block(number)["timestamp"] > moment:
            number -= 1  # the chain has mined one more by itself
        block = hex(number)
        fields = {"to": kit.devnet.usdc, "data": "0x" + data.hex()}
        outcomes.append("result" in kit.ask("eth_call", fields, block))
        kit.ask("evm_revert", snapshot)
    assert outcomes == [False, True, False, True]


def test_a_cancelled_authorization_is_dead(kit: Kit) -> None:
    values = authorization(kit)
    fields = [("authorizer", "address"), ("nonce", "bytes32")]
    message = {"authorizer": kit.payer.raw, "nonce": values[5]}
    cancel = sign(
        kit.payer, typed_digest(kit.token_domain(), "CancelAuthorization", fields, message)
    )
    types = ["address", "bytes32", "uint8", "bytes32", "bytes32"]
    parts = (cancel[64], cancel[:32], cancel[32:])
    by_parts = call(
        "cancelAuthorization", types, kit.payer.raw, values[5], *parts[:2], cancel[32:64]
    )
    assert "result" in kit.call(kit.stranger, by_parts, USDC)
    whole = call(
        "cancelAuthorization", ["address", "bytes32", "bytes"], kit.payer.raw, values[5], cancel
    )
    kit.send(kit.stranger, whole, USDC)
    digest = kit.authorization_digest("TransferWithAuthorization", *values)
    data = in_one_piece("transferWithAuthorization", values, sign(kit.payer, digest))
    used = "FiatTokenV2: authorization is used or canceled"
    assert kit.refusal(kit.stranger, data, USDC) == used


def test_a_permit_is_an_approval_by_signature(kit: Kit) -> None:
    fields = [
        ("owner", "address"),
        ("spender", "address"),
        ("value", "uint256"),
        ("nonce", "uint256"),
        ("deadline", "uint256"),
    ]
    owner, spender = kit.payer.raw, kit.stranger.raw
    message = {"owner": owner, "spender": spender, "value": 70, "nonce": 0, "deadline": FAR}
    signature = sign(kit.payer, typed_digest(kit.token_domain(), "Permit", fields, message))
    types = ["address", "address", "uint256", "uint256", "uint8", "bytes32", "bytes32"]
    parts = (signature[64], signature[:32], signature[32:64])
    kit.send(kit.relayer, call("permit", types, owner, spender, 70, FAR, *parts), USDC)
    move = ["address", "address", "uint256"]
    kit.send(kit.stranger, call("transferFrom", move, owner, kit.relayer.raw, 50), USDC)
    too_much = call("transferFrom", move, owner, kit.relayer.raw, 21)
    refusal = kit.refusal(kit.stranger, too_much, USDC)
    assert refusal == "ERC20: transfer amount exceeds allowance"


def test_the_token_is_an_erc20_of_six_decimals(kit: Kit) -> None:
    assert abi.decode(["string"], kit.view(call("name", []), USDC)) == ("USDC",)
    assert abi.decode(["string"], kit.view(call("version", []), USDC)) == ("2",)
    assert int.from_bytes(kit.view(call("decimals", []), USDC)) == 6
    supply = int.from_bytes(kit.view(call("totalSupply", []), USDC))
    assert supply == 10 * kit.devnet.usdc_balance(kit.stranger.address)
    to_zero = call("transfer", ["address", "uint256"], ZERO, 1)
    assert kit.refusal(kit.payer, to_zero, USDC) == "ERC20: transfer to the zero address"
    too_much = call("transfer", ["address", "uint256"], kit.relayer.raw, 10**15)
    refusal = kit.refusal(kit.payer, too_much, USDC)
    assert refusal == "ERC20: transfer amount exceeds balance"
    mint = call("mint", ["address", "uint256"], kit.payer.raw, 1)
    assert kit.refusal(kit.payer, mint, USDC) == "FiatToken: caller is not a minter"


# -- Contract wallets -----------------------------------------------------------------------------


def test_a_contract_wallet_signs_by_eip_1271(kit: Kit) -> None:
    wallet = deploy_wallet(kit)
    config = kit.config(payer_authorizer=ZERO)
    kit.deposit(config, 1000)
    contract_authorizer = replace(kit.config(), receiver_authorizer=wallet)
    kit.deposit(contract_authorizer, 1000)
    row = kit.row(contract_authorizer, 40)
    call = encode_claim_with_signature([row], b"anything at all, " * 20)
    kit.send(kit.stranger, call)
    assert kit.totals(contract_authorizer) == (1000, 40)
    values = [wallet, kit.stranger.raw, 0, 0, FAR, bytes(32)]
    data = in_one_piece("transferWithAuthorization", values, b"anything")
    assert "result" in kit.call(kit.stranger, data, USDC)


def test_a_contract_that_does_not_answer_signs_nothing(kit: Kit) -> None:
    config = kit.config(receiver_authorizer=USDC)
    kit.deposit(config, 1000)
    row = kit.row(config, 40)
    call = encode_claim_with_signature([row], sign(kit.authorizer, kit.batch_digest([row])))
    assert kit.refusal(kit.stranger, call) == "InvalidSignature"


def deploy_wallet(kit: Kit) -> bytes:
    """A wallet that says yes to everything: it returns the magic value of EIP-1271."""
    runtime = bytes.fromhex("631626ba7e60e01b5f5260205ff3")
    prefix = bytes([0x60, len(runtime), 0x80, 0x60, 0x0A, 0x3D, 0x39, 0x3D, 0xF3, 0x00])
    signed = Account.sign_transaction(
        {
            "chainId": kit.devnet.chain_id,
            "nonce": kit.web3.eth.get_transaction_count(kit.stranger.address),
            "data": "0x" + (prefix + runtime).hex(),
            "gas": 200_000,
            "gasPrice": kit.web3.eth.gas_price,
            "value": 0,
        },
        kit.stranger.key,
    )
    hashed = kit.web3.eth.send_raw_transaction(signed.raw_transaction)
    receipt = kit.web3.eth.wait_for_transaction_receipt(hashed)
    return bytes.fromhex(receipt["contractAddress"][2:])


def test_topics_are_those_of_the_interface() -> None:
    for event in (Deposited, Claimed, Settled, Refunded, WithdrawInitiated, WithdrawFinalized):
        (entry,) = (e for e in artifact("BatchSettlement").abi if e.get("name") == event.__name__)
        signature = f"{event.__name__}({','.join(i['type'] for i in entry['inputs'])})"
        assert topic_of(event) == keccak(signature.encode())
