"""`python -m bench.gas`: what collecting costs on chain, beside one transfer of the scheme `exact`.

Many channels of many vouchers each, on the embedded chain: deposits one by one, one claim of 1 row,
one of 10, the rest in full batches, one settlement, one refund. Fees are shown at 0.01 gwei and
$3,000 a coin. The embedded chain's contracts are our own; the canonical ones use less or more by a
few per cent, and what an L2 takes for its data on L1 is not in these figures.
"""

import argparse
import asyncio
from dataclasses import dataclass, field, replace
from typing import Final

from helpers.chain import ASSET, TOKEN_DOMAIN, Payer, new_address, rich_payer
from helpers.collecting import EAGER, Customer, Provider, claimer_of, providing

from paywall.chain.devnet import Devnet
from paywall.protocol import eip712
from paywall.protocol.claims import batches
from paywall.protocol.eip712 import Authorization
from paywall.protocol.limits import MAX_CLAIM_ROWS

GAS_PRICE_WEI: Final = 10_000_000
TERMS: Final = replace(EAGER, native_price="$3000").of(ASSET)
PRICE: Final = 1_000


@dataclass
class Gas:
    """Units of gas of each kind of transaction, one number per transaction."""

    deposits: list[int] = field(default_factory=list)
    claims: list[tuple[int, int]] = field(default_factory=list)
    settle: int = 0
    refund: int = 0
    exact: int = 0


async def measure(channels: int, vouchers: int) -> Gas:
    gas = Gas()
    with Devnet(port=0) as devnet:
        async with providing(devnet) as provider:
            payer = rich_payer(devnet)
            devnet.fund_usdc("0x" + payer.address.hex(), channels * vouchers * PRICE * 2)
            customers = [await _open(provider, payer, gas, vouchers) for _ in range(channels)]
            for customer in customers:
                await provider.serve(customer, PRICE, vouchers)
            await _claim_few(provider, gas, 1)
            await _claim_few(provider, gas, 10)
            await _claim_rest(provider, gas)
            gas.refund = await _refund(provider, customers[0])
            gas.exact = await _exact(provider, payer)
            earned = await provider.node.token_balance(ASSET.address, provider.receiver)
            assert earned == channels * vouchers * PRICE, "everything came home"
    return gas


async def _open(provider: Provider, payer: Payer, gas: Gas, vouchers: int) -> Customer:
    config = payer.config(provider.node.receiver_authorizer, provider.receiver)
    mined = await provider.node.deposit(payer.deposit(config, vouchers * PRICE + PRICE))
    assert mined is not None
    gas.deposits.append(mined.gas)
    customer = Customer(payer, config)
    state = await provider.node.channel(customer.channel_id)
    await provider.store.record(customer.channel_id, provider.node.network, config, state, 0)
    return customer


async def _claim_few(provider: Provider, gas: Gas, rows: int) -> None:
    (batch,) = batches(await provider.store.claimable(rows))
    mined = await provider.node.claim(batch)
    gas.claims.append((rows, mined.gas))
    for channel in batch.channels:
        state = await provider.node.channel(channel.channel_id)
        args = channel.channel_id, channel.network, channel.config, state, 0
        await provider.store.record(*args)


async def _claim_rest(provider: Provider, gas: Gas) -> None:
    done = await claimer_of(provider).run_once()
    assert done is not None
    gas.claims += [(len(item.batch.channels), item.mined.gas) for item in done.claimed]
    settled = done.settled
    if not settled:
        (settlement,) = [await provider.node.settle(provider.receiver, ASSET.address)]
        assert settlement is not None
        gas.settle = settlement.gas
    else:
        gas.settle = settled[0].mined.gas


async def _refund(provider: Provider, customer: Customer) -> int:
    record = await provider.record(customer)
    return (await provider.node.refund(record, record.remaining)).gas


async def _exact(provider: Provider, payer: Payer) -> int:
    told = Authorization(payer.address, new_address(), PRICE, 0, 2**40, bytes(31) + b"\x07")
    signature = eip712.sign(payer.key, told.transfer_digest(TOKEN_DOMAIN))
    mined = await provider.node.transfer_with_authorization(told, signature, ASSET.address)
    assert mined is not None
    return mined.gas


def rows_of(gas: Gas, channels: int, vouchers: int) -> list[tuple[str, int, str]]:
    """Label, gas, and what stands behind it."""
    deposit = sum(gas.deposits) // len(gas.deposits)
    table = [("deposit", deposit, "per channel")]
    seen: dict[int, int] = {}
    for rows, used in gas.claims:
        seen.setdefault(rows, used)
    for rows, used in seen.items():
        table.append((f"claim, batch of {rows}", used // rows, "per channel"))
    table += [
        ("settle", gas.settle, "for all"),
        ("refund", gas.refund, "per channel"),
        ("exact: transferWithAuthorization", gas.exact, "per request"),
    ]
    requests = channels * vouchers
    claims = sum(used for _, used in gas.claims)
    collect = (claims + gas.settle) / requests
    whole = collect + sum(gas.deposits) / requests
    table.append((f"a request: claim and settle, {vouchers} a channel", round(collect), ""))
    table.append((f"a request: deposit too, {vouchers} a channel", round(whole), ""))
    return table


def figures(channels: int, vouchers: int = 20) -> dict[str, int | float]:
    """For the benchmark's JSON: units of gas, and the fee of a request in dollars."""
    gas = asyncio.run(measure(channels, vouchers))
    told: dict[str, int | float] = {
        label: used for label, used, _ in rows_of(gas, channels, vouchers)
    }
    collect = (sum(used for _, used in gas.claims) + gas.settle) / (channels * vouchers)
    fee = TERMS.fee(round(collect * 1000) * GAS_PRICE_WEI) / 1000 / 10**6
    return told | {"fee_per_request_usd_at_0_01_gwei": round(fee, 8)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.gas", description="what collecting costs")
    parser.add_argument("--channels", type=int, default=500)
    parser.add_argument("--vouchers", type=int, default=20, help="requests on each channel")
    told = parser.parse_args()
    if told.channels < 11 + MAX_CLAIM_ROWS or told.vouchers < 1:
        parser.error(f"at least {11 + MAX_CLAIM_ROWS} channels and a voucher")
    gas = asyncio.run(measure(told.channels, told.vouchers))
    print(f"{told.channels} channels, {told.vouchers} vouchers each; 0.01 gwei, $3,000 a coin")
    for label, used, per in rows_of(gas, told.channels, told.vouchers):
        micro_dollars = TERMS.fee(used * GAS_PRICE_WEI)
        print(f"{label:44} {used:>9,} gas   ${micro_dollars / 10**6:.6f} {per}")


if __name__ == "__main__":
    main()
