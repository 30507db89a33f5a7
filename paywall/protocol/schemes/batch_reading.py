"""Reads what a payer sends for `batch-settlement`: which channel, which voucher, which deposit.

From the wire to values, once, and strictly: one spelling of an amount, canonical signatures only. A
voucher that is returned is signed by the key that its channel names for that; a deposit is signed
under the domain of its token, which those know who ask for one. Nor are the terms known here: which
channels are taken is for `paywall.protocol.schemes.batch`.

Source: batch-settlement EVM specification, "Client: Payment Construction", "Error Codes".
"""

from functools import lru_cache
from typing import Final

from msgspec import Raw

from paywall.protocol import eip712
from paywall.protocol.channel import ChannelConfig, Voucher
from paywall.protocol.errors import Reason, Refused
from paywall.protocol.limits import MAX_CONFIG_BYTES, UINT256_MAX
from paywall.protocol.money import Address, parse_address, parse_amount
from paywall.protocol.schemes.batch_payments import Deposit, VoucherPayment
from paywall.protocol.schemes.batch_wire import (
    CONFIG,
    KIND,
    PAYLOADS,
    DepositWire,
    Erc3009Wire,
    Parsed,
    RefundPayload,
    VoucherWire,
)
from paywall.protocol.x402 import Malformed, decode_json, parse_bytes

_MALFORMED: Final = {
    b'"voucher"': Reason.VOUCHER_PAYLOAD,
    b'"deposit"': Reason.DEPOSIT_PAYLOAD,
    b'"refund"': Reason.REFUND_PAYLOAD,
}


def read_payload(payload: Raw) -> Parsed:
    """Its shape; the channel in it is still as it was sent. Raises Refused."""
    data = bytes(payload)
    try:
        return decode_json(PAYLOADS, data)
    except Malformed as error:
        raise Refused(_malformed_reason(data), f"({error})") from error


def _malformed_reason(data: bytes) -> Reason:
    """Which of the scheme's words names a payload that could not be read."""
    try:
        kind = bytes(decode_json(KIND, data).get("type", Raw(b"null")))
    except Malformed:
        return Reason.PAYLOAD_TYPE
    return _MALFORMED.get(kind, Reason.PAYLOAD_TYPE)


@lru_cache(maxsize=8192)
def _channel_of(config: bytes, network: str) -> tuple[ChannelConfig, bytes]:
    """The config and its id. A client sends the same bytes each time, so this is hashed once."""
    if len(config) > MAX_CONFIG_BYTES:
        raise Refused(Reason.VOUCHER_PAYLOAD, "(channelConfig: too long)")
    try:
        wire = decode_json(CONFIG, config)
        parsed = ChannelConfig(
            payer=parse_address(wire.payer),
            payer_authorizer=parse_address(wire.payer_authorizer),
            receiver=parse_address(wire.receiver),
            receiver_authorizer=parse_address(wire.receiver_authorizer),
            token=parse_address(wire.token),
            withdraw_delay_seconds=wire.withdraw_delay,
            salt=parse_bytes(wire.salt, 32),
        )
    except ValueError as error:
        raise Refused(Reason.VOUCHER_PAYLOAD, f"(channelConfig: {error})") from error
    if not 0 <= parsed.withdraw_delay_seconds < 2**40:
        raise Refused(Reason.WITHDRAW_DELAY_MISMATCH)
    return parsed, parsed.channel_id(network)


def channel_of(config: Raw, network: str) -> tuple[ChannelConfig, bytes]:
    """A channel's terms and its id, from the wire. Raises Refused."""
    return _channel_of(bytes(config), network)


def read_config(wire: Raw, network: str) -> ChannelConfig:
    """A config as `config_wire` spells it. Raises Refused."""
    return _channel_of(bytes(wire), network)[0]


def channel_id_of(payload: Raw, network: str) -> bytes:
    """Which channel a payload speaks of, unchecked. Raises Refused when it cannot be read."""
    return _channel_of(bytes(read_payload(payload).channel_config), network)[1]


def read_voucher(
    wire: VoucherWire, config: ChannelConfig, channel_id: bytes, domain: bytes
) -> Voucher:
    """A voucher that is signed by the key that its channel names. Raises Refused."""
    try:
        named = parse_bytes(wire.channel_id, 32)
        amount = parse_amount(wire.max_claimable_amount)
    except ValueError as error:
        raise Refused(Reason.VOUCHER_PAYLOAD, f"({error})") from error
    if named != channel_id:
        raise Refused(Reason.CHANNEL_ID_MISMATCH)
    try:
        signature = parse_bytes(wire.signature, 65)
    except ValueError as error:
        raise Refused(Reason.VOUCHER_SIGNATURE, f"({error})") from error
    digest = eip712.voucher_digest(domain, channel_id, amount)
    if not signed_by(config.payer_authorizer, digest, signature):
        raise Refused(Reason.VOUCHER_SIGNATURE)
    return Voucher(amount, signature)


def signed_by(signer: Address, digest: bytes, signature: bytes) -> bool:
    """Whether a canonical signature is this signer's."""
    try:
        return eip712.recover(digest, signature) == signer
    except eip712.BadSignature:
        return False


def read_deposit(wire: DepositWire, payment: VoucherPayment) -> Deposit:
    """A deposit whose signature is not checked yet. Raises Refused."""
    erc3009 = wire.authorization.erc3009
    if not isinstance(erc3009, Erc3009Wire):
        raise Refused(Reason.DEPOSIT_PAYLOAD, "Only EIP-3009 authorizations are taken here.")
    try:
        return Deposit(
            channel_id=payment.channel_id,
            config=payment.config,
            amount=parse_amount(wire.amount),
            valid_after=parse_amount(erc3009.valid_after, UINT256_MAX),
            valid_before=parse_amount(erc3009.valid_before, UINT256_MAX),
            salt=_parse_salt(erc3009.salt),
            signature=parse_bytes(erc3009.signature, 65),
            voucher=payment.voucher,
        )
    except ValueError as error:
        raise Refused(Reason.DEPOSIT_PAYLOAD, f"({error})") from error


def _parse_salt(text: str) -> int:
    """A uint256 as hex or decimal: the official clients send hex, the contract takes a number."""
    if text[:2] in ("0x", "0X") and 2 < len(text) <= 66 and text.isascii() and text[2:].isalnum():
        return int(text, 16)
    return parse_amount(text, UINT256_MAX)


def read_refund_amount(payload: RefundPayload) -> int | None:
    """None for all that is left. Raises Refused."""
    if not isinstance(payload.amount, str):
        return None
    try:
        return parse_amount(payload.amount)
    except ValueError as error:
        raise Refused(Reason.REFUND_AMOUNT, f"({error})") from error
