"""Everything that the page shows, as JSON: amounts as decimal text of atomic units.

It reads the store and nothing else. What the claimer did and means to do is what it has written
down there (`paywall.chain.desk`), so no chain is asked and no key is needed.
"""

import time
from collections.abc import Callable, Iterable
from typing import Final

from paywall import counts
from paywall.chain.desk import CLAIM, Deed, Desk, job_on
from paywall.counts import OUTCOMES, PERIOD_SECONDS, Counts, RouteCounts
from paywall.crowd import crowd_alarm
from paywall.dashboard.channels import Holdings, Survey, survey
from paywall.dashboard.takings import Reader, Sum, Takings, Token, largest
from paywall.dashboard.traffic import Traffic
from paywall.page import network_name
from paywall.protocol.channel import Channel
from paywall.protocol.claims import ClaimPolicy
from paywall.protocol.money import KNOWN_ASSETS, Asset
from paywall.protocol.x402 import show_address, show_bytes
from paywall.stores import Store
from paywall.stores.slips import slips_of

Shown = dict[str, object]
Stands = tuple[str, str, str]
"""Name, subject and text of an alarm."""

SURVEY_SECONDS: Final = 10
"""How old what is known of channels and claimer may be."""
NATIVE_PRICE: Final = ClaimPolicy().native_price
TOP: Final = 12
_NOTHING: Final = Takings()


class View:
    """One store, looked at. `native_price` is what the network's coin costs in the token, for the
    fees; `assets` are tokens besides those that are known. `clock` gives Unix seconds.
    """

    def __init__(
        self,
        store: Store,
        native_price: str = NATIVE_PRICE,
        assets: Iterable[Asset] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._policy = ClaimPolicy(native_price=native_price)
        more: dict[tuple[str, bytes], Asset] = {(a.network, a.address): a for a in assets}
        self._assets = {**KNOWN_ASSETS, **more}
        self._clock = clock
        self._reader = Reader(store)
        self.traffic = Traffic(slips_of(store))
        self._survey = Survey()
        self._claimers: list[Shown] = []
        self.alarms: dict[str, list[Stands]] = {}
        """Those that stand, by network."""
        self._surveyed_at = 0.0

    async def look(self) -> Shown:
        """Looks again, at what is new. Raises StoreUnavailable."""
        now = self._clock()
        now_ms = int(now * 1000)
        if not 0 <= now - self._surveyed_at < SURVEY_SECONDS:
            self._survey = await survey(self._store)
            self._reader.know(self._survey.tokens.items())
            self.alarms = {name: await self._alarms(name) for name in self._survey.networks}
            self._claimers = [await self._claimer(name) for name in self._survey.networks]
            self._surveyed_at = now
        complete = await self._reader.read_on(now_ms)
        await self.traffic.read(now)
        return {
            "now": now_ms,
            "complete": complete,
            "whole": self._survey.whole,
            "tokens": [self._token(token, now_ms) for token in self.tokens],
            "requests": self._requests(),
            "claimers": self._claimers,
        }

    @property
    def tokens(self) -> list[Token]:
        """Those that earn most first."""
        known = {*self._reader.takings, *self._survey.holdings}
        return sorted(known, key=lambda token: (-self.takings(token).total.amount, token))

    def takings(self, token: Token) -> Takings:
        return self._reader.takings.get(token, _NOTHING)

    def holdings(self, token: Token) -> Holdings:
        return self._survey.holdings.get(token) or Holdings()

    # -- Money -----------------------------------------------------------------------------------

    def _token(self, token: Token, now_ms: int) -> Shown:
        asset = self._assets.get(token)
        takings, held = self.takings(token), self.holdings(token)
        payers = {
            payer if isinstance(payer, str) else show_address(payer): part
            for payer, part in takings.payers.items()
        }
        return {
            "network": token.network,
            "name": network_name(token.network),
            "symbol": asset.symbol if asset else show_address(token.address),
            "decimals": asset.decimals if asset else 0,
            "dollar": asset is not None and asset.is_dollar,
            "total": _sum(takings.total),
            "adopted": str(takings.adopted),
            "hour": _bars(takings.over(now_ms, 1, 60)),
            "day": _bars(takings.over(now_ms, 15, 96)),
            "month": _bars(takings.over_days(now_ms, 30)),
            "routes": [[name, *_sum(part)] for name, part in largest(takings.routes, TOP)],
            "payers": [[name, *_sum(part)] for name, part in largest(payers, TOP)],
            "payer_count": len(takings.payers),
            "holdings": _holdings(held),
            "risks": [
                [show_address(risk.receiver), str(risk.amount), risk.deadline_ms]
                for risk in held.risks
            ],
            "channels": [_channel(channel) for channel in held.largest],
        }

    # -- Requests --------------------------------------------------------------------------------

    def _requests(self) -> Shown:
        day, hour = self.traffic.day, self.traffic.last_hour
        return {
            "day": _traffic(day),
            "hour": _traffic(hour),
            "series": [
                [1000 * PERIOD_SECONDS * period, _outcomes(part)]
                for period, part in sorted(self.traffic.periods.items())
            ],
            "bounds_us": counts.BOUNDS_US,
        }

    # -- The claimer -----------------------------------------------------------------------------

    async def _claimer(self, network: str) -> Shown:
        desk = Desk(self._store, job_on(network), 0)
        outlook, deeds = await desk.outlook(), await desk.deeds()
        errands, asides = await desk.errands(), await desk.asides()
        return {
            "network": network,
            "name": network_name(network),
            "looked_at": outlook.at_ms if outlook else None,
            "price_wei": str(outlook.price_wei) if outlook else None,
            "swept_at": outlook.swept_at_ms if outlook else None,
            "waiting": [[w, n, str(amount)] for w, n, amount in outlook.waiting] if outlook else [],
            "alarms": self.alarms[network],
            "sent": [show_bytes(errand.transaction) for errand in errands.values()],
            "aside": [[show_bytes(name), aside.reason] for name, aside in asides.items()],
            "transactions": deeds.transactions,
            "fee_wei": str(deeds.fee_wei),
            **self._fee_share(network, deeds.fee_wei, deeds.claimed),
            "deeds": [self._deed(network, deed) for deed in reversed(deeds.last[-2 * TOP :])],
        }

    async def _alarms(self, network: str) -> list[Stands]:
        """The claimer's, and the one that all workers keep together."""
        outlook = await Desk(self._store, job_on(network), 0).outlook()
        alarms = list(outlook.alarms) if outlook else []
        if crowd := await crowd_alarm(self._store, network):
            alarms.append((type(crowd).__name__, crowd.subject, crowd.text))
        return alarms

    def _fee_share(self, network: str, fee_wei: int, claimed: int) -> Shown:
        """The fees in the network's first token, and as millionths of what was claimed."""
        asset = next((a for (name, _), a in self._assets.items() if name == network), None)
        if asset is None:
            return {"fee": None, "fee_ppm": None}
        fee = self._policy.of(asset).fee(fee_wei)
        return {
            "fee": asset.show(fee),
            "claimed": asset.show(claimed),
            "fee_ppm": fee * 1_000_000 // claimed if claimed else None,
        }

    def _deed(self, network: str, deed: Deed) -> Shown:
        asset = self._assets.get((network, deed.token))
        return {
            "at": deed.at_ms,
            "kind": deed.kind,
            "channels": deed.channels if deed.kind == CLAIM else None,
            "amount": asset.show(deed.amount) if asset else str(deed.amount or ""),
            "gas": deed.gas,
            "fee_wei": str(deed.fee_wei),
            "transaction": show_bytes(deed.transaction),
        }


def _sum(part: Sum) -> list[object]:
    return [str(part.amount), part.count]


def _bars(bars: Iterable[tuple[int, Sum]]) -> list[list[object]]:
    return [[at_ms, *_sum(part)] for at_ms, part in bars]


def _holdings(held: Holdings) -> Shown:
    return {
        "channels": held.channels,
        "open": held.open,
        "withdrawing": held.withdrawing,
        "in_flight": held.in_flight,
        "balance": str(held.balance),
        "charged": str(held.charged),
        "unclaimed": str(held.unclaimed),
        "remaining": str(held.remaining),
    }


def _channel(channel: Channel) -> Shown:
    return {
        "id": show_bytes(channel.channel_id),
        "payer": show_address(channel.config.payer),
        "balance": str(channel.balance),
        "charged": str(channel.charged),
        "unclaimed": str(channel.unclaimed),
        "remaining": str(max(0, channel.remaining)),
        "withdrawing": bool(channel.chain.withdraw_requested_at),
        "used_at": channel.used_at_ms or None,
    }


def _outcomes(told: Counts) -> dict[str, int]:
    found = dict.fromkeys(OUTCOMES, 0)
    for route in told.routes.values():
        for outcome, count in route.outcomes.items():
            found[outcome] = found.get(outcome, 0) + count
    return found


def _traffic(told: Counts) -> Shown:
    reasons = sorted(told.reasons.items(), key=lambda item: (-item[1], item[0]))
    routes = sorted(told.routes.items(), key=lambda item: (-sum(item[1].latency), item[0]))
    everything = RouteCounts()
    for route in told.routes.values():
        everything.latency = [a + b for a, b in zip(everything.latency, route.latency, strict=True)]
    return {
        "outcomes": _outcomes(told),
        "reasons": reasons[:TOP],
        "latency": everything.latency,
        "quantiles": _quantiles(everything),
        "routes": [[name, sum(r.latency), *_quantiles(r)] for name, r in routes[:TOP]],
    }


def _quantiles(route: RouteCounts) -> list[int | None]:
    return [counts.quantile_us(route.latency, share) for share in (0.5, 0.95, 0.99)]
