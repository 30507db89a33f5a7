"""Signing in: a wallet shows that it is there by signing a challenge, and nothing is paid. Pure.

A provider puts a challenge into its 402; the client signs the message that the challenge stands
for, and sends the proof in a header of its own. A proof is for one origin, good for minutes, and
good once: whoever checks it spends its nonce. The nonce may be of the client's own making, so a
client that has seen one challenge of an origin signs in on the first try.

The message is that of EIP-4361 (`paywall.protocol.sign_in_message`), signed by a key. Contract
wallets (EIP-1271, EIP-6492) and other chains than EVM ones are not spoken here.

Source: extensions/sign-in-with-x.md, "Verification Logic".
"""

import re
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Raw

from paywall.protocol import eip712
from paywall.protocol.eip712 import BadSignature, keccak
from paywall.protocol.errors import Reason, Refused
from paywall.protocol.instants import parse_instant, show_instant
from paywall.protocol.limits import (
    MAX_CLOCK_SKEW_SECONDS,
    MAX_SIGN_IN_HEADER_BYTES,
    SIGN_IN_SECONDS,
)
from paywall.protocol.money import Address, parse_address
from paywall.protocol.sign_in_message import (
    SCHEMA,
    Advertised,
    Chain,
    Challenge,
    Info,
    Proof,
    is_plain,
    signed_digest,
    told_of,
)
from paywall.protocol.x402 import (
    Malformed,
    decode_base64,
    decode_json,
    encode_header,
    encode_json,
    parse_bytes,
    show_address,
    show_bytes,
)

EXTENSION: Final = "sign-in-with-x"
HEADER: Final = "SIGN-IN-WITH-X"

_EIP191: Final = "eip191"
_NONCE = re.compile("[A-Za-z0-9]{8,128}", re.ASCII)
_ORIGIN = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?", re.ASCII)

_challenge = msgspec.json.Decoder(Challenge)
_proof = msgspec.json.Decoder(Proof)


class SignedIn(msgspec.Struct, frozen=True):
    """Who signed in, and the name of the proof, which is good once."""

    address: Address
    once: bytes


def parse_origin(url: str) -> str:
    """The origin of a URL, as it is compared: scheme, host and port. Raises ValueError."""
    match = _ORIGIN.match(url)
    if match is None or url[match.end() : match.end() + 1] not in ("", "/", "?", "#"):
        raise ValueError("no origin of a web page")
    return match[0].lower()


def challenge(origin: str, uri: str, network: str, nonce: str, now: int, statement: str) -> Raw:
    """The extension as a provider offers it; `now` in Unix seconds."""
    info: dict[str, object] = {
        "domain": origin.partition("://")[2],
        "uri": uri,
        "version": "1",
        "nonce": nonce,
        "issuedAt": show_instant(now),
        "expirationTime": show_instant(now + SIGN_IN_SECONDS),
        "statement": statement,
        "resources": [uri],
    }
    return Raw(encode_json(Advertised(info, [Chain(network, _EIP191)], SCHEMA)))


def lasting(asked: Challenge) -> Raw:
    """What an agent remembers of a challenge: that it was asked, and for which chains."""
    info = Info(domain=asked.info.domain, uri="", nonce="", issued_at="")
    return Raw(encode_json(Challenge(info, asked.supported_chains)))


def read_challenge(extension: Raw) -> Challenge | None:
    """A provider's challenge, or None when it is none that we understand."""
    try:
        return decode_json(_challenge, bytes(extension))
    except Malformed:
        return None


def sign(
    sign_digest: Callable[[bytes], bytes],
    account: Address,
    asked: Challenge,
    origin: str,
    uri: str,
    nonce: str | None,
    now: int,
) -> str | None:
    """The header for a challenge; None for one that is not of this origin, or not for our chains.

    With a `nonce` the client repeats an old challenge, for another `uri` and the time `now`.
    """
    info = asked.info
    if nonce is not None:
        info = Info(
            domain=info.domain,
            uri=uri,
            nonce=nonce,
            issued_at=show_instant(now),
            expiration_time=show_instant(now + SIGN_IN_SECONDS),
            statement=info.statement,
        )
    chain = next((one for one in asked.supported_chains if _is_ours(one)), None)
    if chain is None or not _is_of(info, origin) or not is_plain(info):
        return None
    address = show_address(account)
    signature = sign_digest(signed_digest(info, address, chain.chain_id))
    proof = {
        **told_of(info),
        "address": address,
        "chainId": chain.chain_id,
        "type": chain.type,
        "signature": show_bytes(signature),
    }
    return encode_header(proof)


def check(header: str, origin: str, network: str, now: int) -> SignedIn:
    """Who signed a proof that is for us, and fresh. Raises Refused.

    That it is the first time is for the caller to see, who keeps what was spent.
    """
    proof = _read(header)
    if not _is_of(proof, origin):
        raise Refused(Reason.SIGN_IN_ORIGIN)
    if proof.chain_id != network or proof.type != _EIP191:
        raise Refused(Reason.SIGN_IN_CHAIN)
    _refuse_stale(proof, now)
    try:
        address = parse_address(proof.address)
        digest = signed_digest(proof, proof.address, proof.chain_id)
        signer = eip712.recover(digest, _canonical(parse_bytes(proof.signature, 65)))
    except (ValueError, BadSignature) as error:
        raise Refused(Reason.SIGN_IN_SIGNATURE) from error
    if signer != address:
        raise Refused(Reason.SIGN_IN_SIGNATURE)
    return SignedIn(address, keccak(b"paywall:sign-in:" + address + proof.nonce.encode()))


def _read(header: str) -> Proof:
    if len(header) > MAX_SIGN_IN_HEADER_BYTES:
        raise Refused(Reason.HEADER_TOO_LARGE)
    try:
        proof = decode_json(_proof, decode_base64(header))
    except Malformed as error:
        raise Refused(Reason.SIGN_IN_MALFORMED, f"({error})") from error
    if proof.version != "1" or _NONCE.fullmatch(proof.nonce) is None or not is_plain(proof):
        raise Refused(Reason.SIGN_IN_MALFORMED)
    return proof


def _refuse_stale(proof: Proof, now: int) -> None:
    try:
        issued = parse_instant(proof.issued_at)
        expires = parse_instant(proof.expiration_time) if proof.expiration_time else None
        begins = parse_instant(proof.not_before) if proof.not_before else None
    except ValueError as error:
        raise Refused(Reason.SIGN_IN_MALFORMED, f"({error})") from error
    fresh = -MAX_CLOCK_SKEW_SECONDS <= now - issued <= SIGN_IN_SECONDS
    if not fresh or (expires is not None and expires <= now):
        raise Refused(Reason.SIGN_IN_EXPIRED)
    if begins is not None and begins > now + MAX_CLOCK_SKEW_SECONDS:
        raise Refused(Reason.SIGN_IN_EXPIRED)


def _is_ours(chain: Chain) -> bool:
    return chain.type == _EIP191 and chain.chain_id.startswith("eip155:")


def _is_of(info: Info, origin: str) -> bool:
    """Whether it speaks of this origin, in its domain and in its URI."""
    try:
        return info.domain == origin.partition("://")[2] and parse_origin(info.uri) == origin
    except ValueError:
        return False


def _canonical(signature: bytes) -> bytes:
    """With v as the contracts write it: wallets disagree, and a proof moves no money."""
    v = signature[64]
    return signature[:64] + bytes((v + 27 if v < 2 else v,))
