"""`paywall doctor`: looks at everything a provider depends on, changes nothing, and sends nothing.

Each part is examined by itself, so one that is out of reach does not hide what is wrong with the
next. What is found is a sentence and the way to mend it; no secret is in either.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from paywall.chain.contract import COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS
from paywall.chain.rpc import Rpc, quantity
from paywall.crowd import MEND, turned_away
from paywall.finding import Finding, fail, ok, warn
from paywall.keys import key_from_environment
from paywall.protocol import eip712
from paywall.protocol.errors import ConfigurationError, PaymentError
from paywall.protocol.limits import MAX_CLOCK_SKEW_SECONDS
from paywall.protocol.money import ZERO_ADDRESS, Address, Asset, chain_id_of, parse_address
from paywall.protocol.x402 import show_address
from paywall.stores import open_store

CLAIM_GAS: Final = 200_000
"""About what a claim of one row uses; a full batch uses less for each row."""
_KEY: Final = "PAYWALL_KEY"
_CLAIMS_AHEAD: Final = 100
_STALE_SECONDS: Final = 300
_TIMEOUT_SECONDS: Final = 10
_DOMAIN_SEPARATOR: Final = eip712.keccak(b"DOMAIN_SEPARATOR()")[:4]


@dataclass(frozen=True)
class Setup:
    """What is to be examined; what is not given is passed over with a word."""

    asset: Asset
    store: str
    rpc: str | None = None
    pay_to: str | None = None


async def examine(setup: Setup) -> list[Finding]:
    """All findings, part by part."""
    key, found = _key()
    found += _pay_to(setup, key)
    found += await _guarded("store", lambda: _store(setup.store, setup.asset.network))
    if setup.rpc is None:
        mend = "give --rpc, or set RPC_URL"
        return [*found, warn("chain", "no RPC was named, so the chain was not looked at", mend)]
    async with AsyncExitStack() as stack:
        try:
            rpc = Rpc(setup.rpc, _TIMEOUT_SECONDS)
        except PaymentError as error:
            return [*found, fail("rpc", str(error), "give the network's JSON-RPC URL")]
        stack.push_async_callback(rpc.close)
        for name, part in (
            ("network", lambda: _network(rpc, setup.asset)),
            ("contracts", lambda: _contracts(rpc)),
            ("token", lambda: _token(rpc, setup.asset)),
            ("clock", lambda: _clock(rpc)),
            ("gas", lambda: _gas(rpc, key)),
        ):
            found += await _guarded(name, part)
    return found


async def _guarded(subject: str, part: Callable[[], AsyncIterator[Finding]]) -> list[Finding]:
    """What a part finds, or that it is out of reach."""
    found = []
    try:
        async for finding in part():
            found.append(finding)
    except ConfigurationError as error:
        found.append(fail(subject, str(error), "change the setting that this names"))
    except PaymentError as error:
        found.append(fail(subject, str(error), "start it, or mend the way to it"))
    return found


# -- Keys and addresses --------------------------------------------------------------------------


def _key() -> tuple[Address | None, list[Finding]]:
    """The address of the key that is in the environment."""
    try:
        key = key_from_environment(_KEY)
    except ConfigurationError as error:
        return None, [fail("key", str(error), "it is 32 bytes of hex")]
    if key is None:
        mend = f"set {_KEY} to the key that signs claims and pays gas; not the one that earns"
        return None, [fail("key", f"{_KEY} is not set", mend)]
    return parse_address(key.address), [ok("key", f"{_KEY} is {key.address}")]


def _pay_to(setup: Setup, key: Address | None) -> list[Finding]:
    if setup.pay_to is None:
        return []
    try:
        address = parse_address(setup.pay_to)
    except ValueError:
        return [fail("pay_to", f"{setup.pay_to!r} is no address", "write 20 bytes of 0x-hex")]
    if address == ZERO_ADDRESS:
        return [fail("pay_to", "it is the zero address", "name the wallet that is paid")]
    if address == key:
        mend = "let another wallet earn, whose key is not on this machine"
        return [warn("pay_to", "the key that pays gas is also the one that earns", mend)]
    return [ok("pay_to", show_address(address))]


# -- The store -----------------------------------------------------------------------------------


async def _store(url: str, network: str) -> AsyncIterator[Finding]:
    store = open_store(url)
    scheme = url.partition(":")[0]
    began = time.perf_counter()
    await store.open()
    try:
        await store.note("doctor/none")
        milliseconds = (time.perf_counter() - began) * 1000
        yield ok("store", f"{scheme} opens and answers in {milliseconds:.0f} ms")
        if sentence := await turned_away(store, network):
            yield warn("deposits", sentence, MEND)
    finally:
        await store.close()
    if scheme == "memory":
        yield fail("store", "memory forgets at every restart", "use sqlite:/// or redis://")


# -- The chain -----------------------------------------------------------------------------------


async def _network(rpc: Rpc, asset: Asset) -> AsyncIterator[Finding]:
    chain_id = await rpc.ask(quantity, "eth_chainId")
    if chain_id == chain_id_of(asset.network):
        yield ok("network", f"{rpc} is on {asset.network}")
    else:
        mend = f"use an RPC of {asset.network}, or ask for another network"
        yield fail("network", f"{rpc} is on eip155:{chain_id}, not {asset.network}", mend)


async def _contracts(rpc: Rpc) -> AsyncIterator[Finding]:
    named = {"settlement contract": SETTLEMENT_ADDRESS, "deposit collector": COLLECTOR_ADDRESS}
    for name, address in named.items():
        if await rpc.has_code(address):
            yield ok("contracts", f"the {name} is at {show_address(address)}")
        else:
            mend = "offer exact only, or use a network where channels can live"
            yield fail("contracts", f"there is no {name} at {show_address(address)}", mend)


async def _token(rpc: Rpc, asset: Asset) -> AsyncIterator[Finding]:
    if not await rpc.has_code(asset.address):
        mend = "give the token's address on this network"
        yield fail("token", f"there is no contract at {show_address(asset.address)}", mend)
        return
    told = await rpc.call(bytes, asset.address, _DOMAIN_SEPARATOR)
    ours = eip712.domain_separator(asset.name, asset.version, asset.chain_id, asset.address)
    if told == ours:
        yield ok("token", f"{asset.symbol} signs as {asset.name!r}, version {asset.version!r}")
    else:
        mend = "give the name and version of the token's own EIP-712 domain"
        yield fail("token", f"its EIP-712 domain is not {asset.name!r}, {asset.version!r}", mend)


async def _clock(rpc: Rpc) -> AsyncIterator[Finding]:
    block = await rpc.ask(_timestamp, "eth_getBlockByNumber", "latest", False)
    ahead = time.time() - block
    if ahead < -MAX_CLOCK_SKEW_SECONDS:
        mend = "set the clock, and keep it by NTP"
        yield fail("clock", f"the chain's last block is {-ahead:.0f} s in our future", mend)
    elif ahead > _STALE_SECONDS:
        mend = "is the node in step with its network, and the clock right?"
        yield warn("clock", f"the last block is {ahead:.0f} s old", mend)
    else:
        yield ok("clock", f"the last block is {max(0.0, ahead):.0f} s old")


def _timestamp(answer: object) -> int:
    if not isinstance(answer, dict):
        raise ValueError("not a block")
    return quantity(answer.get("timestamp"))


async def _gas(rpc: Rpc, key: Address | None) -> AsyncIterator[Finding]:
    if key is None:
        return
    balance = await rpc.ask(quantity, "eth_getBalance", show_address(key), "latest")
    price = await rpc.ask(quantity, "eth_gasPrice")
    claims = balance // max(1, price * CLAIM_GAS)
    text = f"{balance / 10**18:.6f} of the network's coin, for about {claims:,} single claims"
    if claims == 0:
        mend = f"send some of the network's coin to {show_address(key)}"
        yield fail("gas", f"{text} at today's price", mend)
    elif claims < _CLAIMS_AHEAD:
        yield warn("gas", text, f"fill {show_address(key)} before it runs dry")
    else:
        yield ok("gas", text)
