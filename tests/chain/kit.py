"""A devnet with a cast of characters, and their moves: what the tests of the chain share.

Digests come from eth-account's typed-data encoder and logs from raw receipts, not from the code
under test, so that a test which agrees with the contract agrees with somebody else too.
"""

from dataclasses import dataclass
from itertools import count
from typing import Any

import msgspec
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils import keccak
from web3 import Web3

from paywall.chain.contract import (
    COLLECTOR_ADDRESS,
    SETTLEMENT_ADDRESS,
    ChannelTotals,
    ClaimRow,
    Event,
    decode_channels,
    decode_log,
    decode_refund_nonce,
    decode_revert,
    encode_channels,
    encode_deposit,
    encode_refund_nonce,
    erc3009_collector_data,
)
from paywall.chain.devnet import Devnet
from paywall.chain.devnet_genesis import DevAccount
from paywall.protocol.channel import ChannelConfig

USDC = bytes.fromhex("036CbD53842c5426634e7929541eC2318f3dCF7e")
ZERO = bytes(20)
FAR = 2**40
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

CONFIG_FIELDS = [
    ("payer", "address"),
    ("payerAuthorizer", "address"),
    ("receiver", "address"),
    ("receiverAuthorizer", "address"),
    ("token", "address"),
    ("withdrawDelay", "uint40"),
    ("salt", "bytes32"),
]
VOUCHER_FIELDS = [("channelId", "bytes32"), ("maxClaimableAmount", "uint128")]
REFUND_FIELDS = [("channelId", "bytes32"), ("nonce", "uint256"), ("amount", "uint128")]
ENTRY_FIELDS = [*VOUCHER_FIELDS, ("totalClaimed", "uint128")]
AUTHORIZATION_FIELDS = [
    ("from", "address"),
    ("to", "address"),
    ("value", "uint256"),
    ("validAfter", "uint256"),
    ("validBefore", "uint256"),
    ("nonce", "bytes32"),
]


def typed_digest(
    domain: dict[str, Any],
    name: str,
    fields: list[tuple[str, str]],
    message: dict[str, Any],
    **nested: list[tuple[str, str]],
) -> bytes:
    """The EIP-712 digest as eth-account makes it."""
    types = {
        kind: [{"name": n, "type": t} for n, t in members]
        for kind, members in {name: fields, **nested}.items()
    }
    signable = encode_typed_data(domain_data=domain, message_types=types, message_data=message)
    return keccak(b"\x19" + signable.version + signable.header + signable.body)


def sign(account: DevAccount, digest: bytes) -> bytes:
    return bytes(Account.unsafe_sign_hash(digest, account.key).signature)


def high_s(signature: bytes) -> bytes:
    """The other spelling of a signature: s mirrored, v flipped."""
    s = N - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes([55 - signature[64]])


def bare_v(signature: bytes) -> bytes:
    """The spelling with v of 0 or 1."""
    return signature[:64] + bytes([signature[64] - 27])


@dataclass(frozen=True)
class Sent:
    """A transaction that succeeded."""

    hash: str
    gas: int
    block: int
    events: list[Event]


class Kit:
    """One devnet, its people, and what they do."""

    def __init__(self, devnet: Devnet) -> None:
        self.devnet = devnet
        self.web3 = Web3(Web3.HTTPProvider(devnet.url))
        self.payer, self.receiver, self.authorizer, self.payer_authorizer = devnet.accounts[:4]
        self.relayer, self.stranger = devnet.accounts[4:6]
        self._salts = count(1)

    # -- digests

    def settlement_domain(self) -> dict[str, Any]:
        return {
            "name": "x402 Batch Settlement",
            "version": "1",
            "chainId": self.devnet.chain_id,
            "verifyingContract": Web3.to_checksum_address(SETTLEMENT_ADDRESS),
        }

    def token_domain(self) -> dict[str, Any]:
        return {
            "name": "USDC",
            "version": "2",
            "chainId": self.devnet.chain_id,
            "verifyingContract": self.devnet.usdc,
        }

    def channel_id(self, config: ChannelConfig) -> bytes:
        values = msgspec.structs.astuple(config)
        message = {name: v for (name, _), v in zip(CONFIG_FIELDS, values, strict=True)}
        return typed_digest(self.settlement_domain(), "ChannelConfig", CONFIG_FIELDS, message)

    def voucher_digest(self, config: ChannelConfig, amount: int) -> bytes:
        message = {"channelId": self.channel_id(config), "maxClaimableAmount": amount}
        return typed_digest(self.settlement_domain(), "Voucher", VOUCHER_FIELDS, message)

    def refund_digest(self, config: ChannelConfig, refund_nonce: int, amount: int) -> bytes:
        message = {"channelId": self.channel_id(config), "nonce": refund_nonce, "amount": amount}
        return typed_digest(self.settlement_domain(), "Refund", REFUND_FIELDS, message)

    def batch_digest(self, rows: list[ClaimRow]) -> bytes:
        entries = [
            {
                "channelId": self.channel_id(row.config),
                "maxClaimableAmount": row.amount,
                "totalClaimed": row.claimed,
            }
            for row in rows
        ]
        return typed_digest(
            self.settlement_domain(),
            "ClaimBatch",
            [("claims", "ClaimEntry[]")],
            {"claims": entries},
            ClaimEntry=ENTRY_FIELDS,
        )

    def authorization_digest(self, kind: str, *values: Any) -> bytes:
        message = {name: v for (name, _), v in zip(AUTHORIZATION_FIELDS, values, strict=True)}
        return typed_digest(self.token_domain(), kind, AUTHORIZATION_FIELDS, message)

    # -- moves

    def config(self, **changes: Any) -> ChannelConfig:
        """A channel of the cast, never the same twice."""
        config = ChannelConfig(
            payer=self.payer.raw,
            payer_authorizer=self.payer_authorizer.raw,
            receiver=self.receiver.raw,
            receiver_authorizer=self.authorizer.raw,
            token=USDC,
            withdraw_delay_seconds=900,
            salt=next(self._salts).to_bytes(32, "big"),
        )
        return msgspec.structs.replace(config, **changes)

    def collector_data(
        self, config: ChannelConfig, amount: int, salt: int, **changes: Any
    ) -> bytes:
        """The payer's authorization of a deposit; `changes` are told to the collector only."""
        nonce = keccak(self.channel_id(config) + salt.to_bytes(32, "big"))
        digest = self.authorization_digest(
            "ReceiveWithAuthorization", config.payer, COLLECTOR_ADDRESS, amount, 0, FAR, nonce
        )
        told = {
            "valid_after": 0,
            "valid_before": FAR,
            "salt": salt,
            "signature": sign(self.payer, digest),
        }
        return erc3009_collector_data(**(told | changes))

    def deposit_call(self, config: ChannelConfig, amount: int, salt: int = 1) -> bytes:
        data = self.collector_data(config, amount, salt)
        return encode_deposit(config, amount, COLLECTOR_ADDRESS, data)

    def deposit(self, config: ChannelConfig, amount: int, salt: int = 1) -> Sent:
        return self.send(self.relayer, self.deposit_call(config, amount, salt))

    def row(
        self,
        config: ChannelConfig,
        claimed: int,
        amount: int | None = None,
        signer: DevAccount | None = None,
    ) -> ClaimRow:
        """A claim with the payer authorizer's voucher, of just what is claimed unless told."""
        promised = claimed if amount is None else amount
        digest = self.voucher_digest(config, promised)
        signature = sign(signer or self.payer_authorizer, digest)
        return ClaimRow(config, promised, signature, claimed)

    def send(
        self, sender: DevAccount, call: bytes, to: bytes = SETTLEMENT_ADDRESS, gas: int = 0
    ) -> Sent:
        """Sends a transaction that must succeed."""
        target = Web3.to_checksum_address(to)
        transaction = {"from": sender.address, "to": target, "data": "0x" + call.hex()}
        signed = Account.sign_transaction(
            {
                "chainId": self.devnet.chain_id,
                "nonce": self.web3.eth.get_transaction_count(sender.address, "pending"),
                "to": target,
                "data": transaction["data"],
                "gas": gas or self.web3.eth.estimate_gas(transaction),
                "gasPrice": self.web3.eth.gas_price,
                "value": 0,
            },
            sender.key,
        )
        hashed = self.web3.eth.send_raw_transaction(signed.raw_transaction)
        receipt = self.web3.eth.wait_for_transaction_receipt(hashed)
        assert receipt["status"] == 1
        logs = (
            decode_log(bytes.fromhex(log["address"][2:]), log["topics"], log["data"])
            for log in receipt["logs"]
        )
        return Sent(
            hash="0x" + bytes(hashed).hex(),
            gas=receipt["gasUsed"],
            block=receipt["blockNumber"],
            events=[event for event in logs if event],
        )

    def ask(self, method: str, *params: Any) -> dict[str, Any]:
        """The raw answer of one JSON-RPC method."""
        return dict(self.web3.provider.make_request(method, list(params)))

    def call(self, sender: DevAccount, call: bytes, to: bytes = SETTLEMENT_ADDRESS) -> Any:
        fields = {"from": sender.address, "to": "0x" + to.hex(), "data": "0x" + call.hex()}
        return self.ask("eth_call", fields, "latest")

    def view(self, call: bytes, to: bytes = SETTLEMENT_ADDRESS) -> bytes:
        return bytes.fromhex(self.call(self.stranger, call, to)["result"][2:])

    def refusal(
        self, sender: DevAccount, call: bytes, to: bytes = SETTLEMENT_ADDRESS
    ) -> str | None:
        """Why the contract refuses a call of this sender."""
        error = self.call(sender, call, to)["error"]
        assert error["code"] == 3
        return decode_revert(bytes.fromhex(error["data"][2:]))

    def totals(self, config: ChannelConfig) -> ChannelTotals:
        return decode_channels(self.view(encode_channels(self.channel_id(config))))

    def refund_nonce(self, config: ChannelConfig) -> int:
        return decode_refund_nonce(self.view(encode_refund_nonce(self.channel_id(config))))
