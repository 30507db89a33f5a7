"""From a promise to signatures: what is signed for it, and by whom.

The digest and the typed data of each request say the same, so that a signer may take either. Our
own key signs at once; another signer is asked in a step of the conversation, and what it gives is
checked. Only what the books have written down comes here.

Sources: EIP-712; EIP-3009; batch-settlement EVM specification, "Appendix".
"""

import json
from typing import Final

from paywall.asking import Asking, Call
from paywall.keys import LocalKey, Signer, SigningRequest, canonical
from paywall.protocol import eip712
from paywall.protocol.eip712 import Authorization
from paywall.protocol.errors import SigningFailed
from paywall.protocol.money import Address, Asset, parse_address
from paywall.protocol.schemes.exact import token_domain
from paywall.protocol.x402 import show_address, show_bytes

_DOMAIN_FIELDS: Final = (
    ("name", "string"),
    ("version", "string"),
    ("chainId", "uint256"),
    ("verifyingContract", "address"),
)
_AUTHORIZATION_FIELDS: Final = (
    ("from", "address"),
    ("to", "address"),
    ("value", "uint256"),
    ("validAfter", "uint256"),
    ("validBefore", "uint256"),
    ("nonce", "bytes32"),
)
_VOUCHER_FIELDS: Final = (("channelId", "bytes32"), ("maxClaimableAmount", "uint128"))


def deposit_request(asset: Asset, authorization: Authorization) -> SigningRequest:
    digest = authorization.receive_digest(token_domain(asset))
    text = _authorization_text("ReceiveWithAuthorization", asset, authorization)
    return SigningRequest("deposit", digest, text)


def transfer_request(asset: Asset, authorization: Authorization) -> SigningRequest:
    digest = authorization.transfer_digest(token_domain(asset))
    text = _authorization_text("TransferWithAuthorization", asset, authorization)
    return SigningRequest("transfer", digest, text)


def voucher_request(chain_id: int, channel_id: bytes, amount: int) -> SigningRequest:
    digest = eip712.voucher_digest(eip712.settlement_domain(chain_id), channel_id, amount)
    domain = ("x402 Batch Settlement", "1", chain_id, eip712.SETTLEMENT_ADDRESS)
    message = {"channelId": show_bytes(channel_id), "maxClaimableAmount": str(amount)}
    return SigningRequest("voucher", digest, _text(domain, "Voucher", _VOUCHER_FIELDS, message))


def signature(signer: Signer, request: SigningRequest) -> Asking[bytes]:
    """The canonical signature of a request. Raises SigningFailed."""
    if isinstance(signer, LocalKey):
        return signer.sign(request)
    call = Call(lambda: signer.sign(request))
    try:
        yield call
        given = call.answer
    except GeneratorExit:
        raise
    except Exception as error:
        raise SigningFailed(f"no {request.purpose} was signed: {error!r}") from error
    return canonical(given, request.digest, account_of(signer))


def account_of(signer: Signer) -> Address:
    """The signer's address. Raises SigningFailed when it is none."""
    try:
        return parse_address(signer.address)
    except ValueError as error:
        raise SigningFailed(f"the signer's address is none: {signer.address!r}") from error


def _authorization_text(kind: str, asset: Asset, told: Authorization) -> str:
    domain = (asset.name, asset.version, asset.chain_id, asset.address)
    message = {
        "from": show_address(told.payer),
        "to": show_address(told.to),
        "value": str(told.value),
        "validAfter": str(told.valid_after),
        "validBefore": str(told.valid_before),
        "nonce": show_bytes(told.authorization_nonce),
    }
    return _text(domain, kind, _AUTHORIZATION_FIELDS, message)


def _text(
    domain: tuple[str, str, int, Address],
    kind: str,
    fields: tuple[tuple[str, str], ...],
    message: dict[str, str],
) -> str:
    name, version, chain_id, contract = domain
    return json.dumps(
        {
            "types": {"EIP712Domain": _typed(_DOMAIN_FIELDS), kind: _typed(fields)},
            "primaryType": kind,
            "domain": {
                "name": name,
                "version": version,
                "chainId": chain_id,
                "verifyingContract": show_address(contract),
            },
            "message": message,
        }
    )


def _typed(fields: tuple[tuple[str, str], ...]) -> list[dict[str, str]]:
    return [{"name": name, "type": kind} for name, kind in fields]
