"""What is signed to sign in: the fields of the challenge on the wire, and the message made of them.

The message is that of EIP-4361: one line for each field, so that people can read what they sign.
A field that held a line break would be read as several, so a text with a control character in it is
none that is signed or checked here (`is_plain`). It knows neither who asks nor whether it is fresh.

Sources: extensions/sign-in-with-x.md, "Message Format"; EIP-4361; EIP-191.
"""

import re
from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from paywall.protocol.eip712 import keccak
from paywall.protocol.limits import MAX_TEXT_BYTES
from paywall.protocol.x402 import encode_json

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Info(msgspec.Struct, rename="camel", omit_defaults=True, frozen=True, kw_only=True):
    """What a provider asks to be signed."""

    domain: str
    uri: str
    version: str = "1"
    nonce: str
    issued_at: str
    expiration_time: str | UnsetType | None = UNSET
    not_before: str | UnsetType | None = UNSET
    request_id: str | UnsetType | None = UNSET
    statement: str | UnsetType | None = UNSET
    resources: list[str] | UnsetType | None = UNSET


class Proof(Info, rename="camel", omit_defaults=True, frozen=True, kw_only=True):
    """The challenge signed: by whom, for which chain, and how. Its `version` is written too."""

    address: str
    chain_id: str
    type: str
    signature: str
    signature_scheme: str | UnsetType | None = UNSET


class Chain(msgspec.Struct, rename="camel", frozen=True):
    """A way to sign that the provider understands."""

    chain_id: str
    type: str


class Challenge(msgspec.Struct, rename="camel", frozen=True):
    """The extension in a 402."""

    info: Info
    supported_chains: list[Chain]


class Advertised(msgspec.Struct, rename="camel", frozen=True):
    """The extension as we offer it, with the schema of a proof."""

    info: dict[str, object]
    supported_chains: list[Chain]
    schema: Raw


_TEXTS: Final = (
    *("domain", "address", "statement", "uri", "version", "chainId", "type", "nonce"),
    *("issuedAt", "expirationTime", "notBefore", "requestId", "signature"),
)
SCHEMA: Final = Raw(
    encode_json(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                **{name: {"type": "string"} for name in _TEXTS},
                "resources": {"type": "array", "items": {"type": "string"}},
            },
            "required": [
                *("domain", "address", "uri", "version", "chainId", "type", "nonce"),
                *("issuedAt", "signature"),
            ],
        }
    )
)


def told_of(info: Info) -> dict[str, object]:
    """What was said, by its names on the wire."""
    named = {
        "domain": info.domain,
        "uri": info.uri,
        "version": info.version,
        "nonce": info.nonce,
        "issuedAt": info.issued_at,
        "expirationTime": info.expiration_time,
        "notBefore": info.not_before,
        "requestId": info.request_id,
        "statement": info.statement,
        "resources": info.resources,
    }
    return {name: value for name, value in named.items() if value not in (UNSET, None)}


def is_plain(info: Info) -> bool:
    """Whether no field could be taken for several lines of the message."""
    texts = [text for text in told_of(info).values() if isinstance(text, str)]
    texts += info.resources or []
    return all(len(text) <= MAX_TEXT_BYTES and not _CONTROL.search(text) for text in texts)


def message(info: Info, address: str, chain_id: str) -> str:
    """The text that a wallet shows before it signs."""
    told = told_of(info)
    lines = [
        f"{info.domain} wants you to sign in with your Ethereum account:",
        address,
        "",
        *([str(told["statement"])] if "statement" in told else []),
        "",
        f"URI: {info.uri}",
        f"Version: {info.version}",
        f"Chain ID: {chain_id.removeprefix('eip155:')}",
        f"Nonce: {info.nonce}",
        f"Issued At: {info.issued_at}",
    ]
    optional = {
        "expirationTime": "Expiration Time",
        "notBefore": "Not Before",
        "requestId": "Request ID",
    }
    lines += [f"{label}: {told[name]}" for name, label in optional.items() if name in told]
    if info.resources:
        lines += ["Resources:", *(f"- {one}" for one in info.resources)]
    return "\n".join(lines)


def signed_digest(info: Info, address: str, chain_id: str) -> bytes:
    """What a key signs: the message, as EIP-191 says."""
    data = message(info, address, chain_id).encode()
    return keccak(b"\x19Ethereum Signed Message:\n%d" % len(data) + data)
