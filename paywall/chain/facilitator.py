"""The chain through facilitators: others pay the gas, and we watch what they do.

A facilitator verifies (`/verify`) and carries to the chain (`/settle`). Its word counts for little:

- Reading is ours. The protocol has no way to ask a facilitator for a channel without a payment at
  hand, and who vouches for his own work is no witness. So `reads` is a JSON-RPC URL, without a key.
- A settlement counts when the chain shows it: the receipt's events, in a block after the question.
- Several facilitators are tried in order, as long as surely nothing was done. Once one may have
  heard a settlement, nobody else is asked: the chain is watched, and if it shows nothing in time,
  the outcome is `TransactionPending`. Whoever asks again begins with reading the chain.

With an `authorizer_key` of ours we sign claims and refunds, and any facilitator can carry them.
Without one the facilitator signs, and is trusted with all that is unclaimed.

Source: x402 v2 §7; batch-settlement EVM specification, "Facilitator Interface".
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Never

import httpx

from paywall.chain import Mined, evidence
from paywall.chain.evidence import Evidence, Wanted
from paywall.chain.facilitator_asks import Asks
from paywall.chain.facilitator_courier import Courier, Declined, Errand
from paywall.chain.facilitator_site import Site
from paywall.chain.facilitator_sites import Sites
from paywall.chain.gas import parse_key
from paywall.chain.proofs import Proofs
from paywall.chain.reads import Reads
from paywall.chain.relay import Witness
from paywall.chain.rpc import Rpc
from paywall.protocol import eip712
from paywall.protocol.channel import ChainState, Channel
from paywall.protocol.claims import Batch
from paywall.protocol.eip712 import Authorization
from paywall.protocol.errors import (
    ChainUnavailable,
    ConfigurationError,
    Reason,
    Refused,
    Reverted,
)
from paywall.protocol.facilitation import (
    DEPOSIT_SIMULATION,
    NOTHING_TO_SETTLE,
)
from paywall.protocol.limits import CHAIN_TIMEOUT_SECONDS, RPC_SECONDS
from paywall.protocol.money import Address, Asset
from paywall.protocol.schemes import batch, exact
from paywall.protocol.schemes.batch import Deposit
from paywall.protocol.x402 import show_address

_PAYER_FAULTS: Final[dict[str, Reason]] = {
    DEPOSIT_SIMULATION: Reason.DEPOSIT_FAILED,
    "invalid_exact_evm_signature": Reason.EXACT_SIGNATURE,
    **{
        reason.code: reason
        for reason in reversed(Reason)
        if reason.code.startswith(("invalid_batch_settlement_evm_", "invalid_exact_evm_"))
    },
}
_CONTRACT_SAYS_NO: Final = ("_simulation_failed", "_transaction_failed", "refund_no_balance")


class Facilitator:
    """A `Chain` over HTTP. URLs and keys are secrets; no text of a Facilitator shows them.

    `urls` is one facilitator or several in order of preference. `assets` are tokens of which their
    EIP-712 domain is not known here. `transport` is httpx's, for tests and odd networks.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        reads: str,
        network: str = "eip155:84532",
        authorizer_key: str | bytes | None = None,
        api_key: str | None = None,
        assets: Sequence[Asset] = (),
        confirmations: int = 1,
        timeout_seconds: float = CHAIN_TIMEOUT_SECONDS,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if confirmations < 1 or timeout_seconds <= 0:
            raise ConfigurationError("confirmations and timeout_seconds must be above zero")
        self.network = network
        key = parse_key(authorizer_key, "authorizer") if authorizer_key else None
        self._sites = Sites(
            [Site(url, api_key) for url in ([urls] if isinstance(urls, str) else urls)],
            network,
            eip712.address_of(key) if key else None,
        )
        self._asks = Asks(network, key, assets)
        self._rpc = Rpc(reads, min(RPC_SECONDS, timeout_seconds))
        self._reads = Reads(self._rpc, network, confirmations, clock)
        self._courier = Courier(
            self._sites, Evidence(self._rpc, confirmations), network, timeout_seconds
        )
        self._proofs = Proofs(self._rpc, Witness(self._rpc, self._reads), confirmations)
        self._transport = transport
        self._http: httpx.AsyncClient | None = None

    def __repr__(self) -> str:
        return f"Facilitator({self.network} by {self._sites})"

    def __reduce__(self) -> Never:
        raise TypeError("a facilitator holds keys and is not pickled")

    # -- Life ------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Checks that the RPC leads to this network, and that a facilitator serves it."""
        try:
            await self._reads.check()
            await self._sites.meet_one(self._client())
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()
        await self._rpc.close()

    @property
    def receiver_authorizer(self) -> Address:
        """Whose signature claims and refunds carry.

        Without a key of ours the facilitator is asked, once; before `open` that blocks, as terms
        are made up before a loop runs. Raises ChainUnavailable or ConfigurationError.
        """
        if self._sites.authorizer is None:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(asyncio.run, self._introduce()).result()
        assert self._sites.authorizer is not None
        return self._sites.authorizer

    async def _introduce(self) -> None:
        async with httpx.AsyncClient(follow_redirects=False, transport=self._transport) as http:
            await self._sites.meet_one(http)

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            self._http = httpx.AsyncClient(follow_redirects=False, transport=self._transport)
        return self._http

    # -- Verbs -----------------------------------------------------------------------------------

    async def channel(self, channel_id: bytes) -> ChainState:
        """What the contract records of a channel, all of it at one block."""
        return await self._reads.channel(channel_id)

    async def authorization(self, authorization: Authorization, token: Address) -> tuple[bool, int]:
        """Whether the token knows it as used or cancelled, and the payer's balance."""
        return await self._reads.authorization_of(token, authorization)

    async def transferred(self, authorization: Authorization, token: Address) -> Mined | None:
        """What became of an `exact` transfer that was sent; None while it may still be mined."""
        return await self._proofs.transferred(authorization, token)

    async def token_balance(self, token: Address, holder: Address) -> int:
        return await self._reads.token_balance(token, holder)

    async def deposit(self, deposit: Deposit) -> Mined | None:
        """Has a deposit put on chain; None when its authorization was used up before.

        Raises Refused, TransactionPending, or ChainUnavailable.
        """
        errand = Errand(
            batch.SCHEME,
            self._asks.deposit(deposit),
            evidence.deposited(deposit),
            deposit.config.payer,
        )
        return await self._pay(
            errand, deposit.config.token, deposit.authorization(), Reason.PAYER_BALANCE
        )

    async def transfer_with_authorization(
        self, authorization: Authorization, signature: bytes, token: Address
    ) -> Mined | None:
        """Has a payer's `exact` transfer made; None when its authorization was used up before."""
        errand = Errand(
            exact.SCHEME,
            self._asks.transfer(authorization, signature, token),
            evidence.transferred(token, authorization),
            authorization.payer,
        )
        return await self._pay(errand, token, authorization, Reason.EXACT_BALANCE)

    async def claim(self, batch_: Batch) -> Mined:
        """Raises the contract's record to what each channel has charged. Raises Reverted."""
        if batch_.network != self.network or batch_.receiver_authorizer != self._sites.authorizer:
            raise ConfigurationError(
                f"claims of {show_address(batch_.receiver_authorizer)} on {batch_.network}"
                " need another authorizer or another network"
            )
        body = self._asks.claim(batch_)
        return await self._act(body, evidence.claimed(batch_.channels))

    async def settle(self, receiver: Address, token: Address) -> Mined | None:
        """Has all that was claimed moved to the receiver; None when there is nothing to move."""
        if await self._reads.to_settle(receiver, token) <= 0:
            return None
        try:
            body = self._asks.settle(receiver, token)
            return await self._act(body, evidence.settled(receiver, token))
        except ChainUnavailable as error:
            if isinstance(error.__cause__, Declined) and error.__cause__.word == NOTHING_TO_SETTLE:
                return None  # somebody was faster
            raise

    async def refund(self, channel: Channel, amount: int) -> Mined:
        """Has what the channel owes claimed and `amount` returned. Raises Reverted."""
        body = self._asks.refund(channel, amount)
        return await self._act(body, evidence.refunded(channel.channel_id, amount))

    # -- How it is done --------------------------------------------------------------------------

    async def _pay(
        self, errand: Errand, token: Address, told: Authorization, too_little: Reason
    ) -> Mined | None:
        """Carries a payer's authorization; a word against it counts only while it is unused."""
        if await self._is_used_up(token, told, too_little):
            return None
        try:
            return await self._carried(errand)
        except (Declined, Reverted) as error:
            if await self._is_used_up(token, told, too_little):
                return None
            raise _refusal(error, errand.scheme) from error

    async def _is_used_up(self, token: Address, told: Authorization, too_little: Reason) -> bool:
        used, balance = await self._reads.authorization_of(token, told)
        if not used and balance < told.value:
            raise Refused(too_little)
        return used

    async def _act(self, body: bytes, wanted: Wanted) -> Mined:
        """Carries what the provider itself wants done."""
        try:
            return await self._carried(Errand(batch.SCHEME, body, wanted))
        except Declined as error:
            if error.word.endswith(_CONTRACT_SAYS_NO):
                raise Reverted(error.word, has_left=True) from error
            raise ChainUnavailable(str(error)) from error

    async def _carried(self, errand: Errand) -> Mined:
        mined = await self._courier.carry(self._client(), errand)
        self._reads.seen(mined.block)
        return mined


def _refusal(error: Exception, scheme: str) -> Refused | ChainUnavailable:
    """A no to a payment: its payer's fault if the word says so, and our trouble otherwise."""
    if isinstance(error, Reverted):
        return Refused(Reason.DEPOSIT_FAILED if scheme == batch.SCHEME else Reason.EXACT_SIMULATION)
    assert isinstance(error, Declined)
    reason = _PAYER_FAULTS.get(error.word)
    return ChainUnavailable(str(error)) if reason is None else Refused(reason)
