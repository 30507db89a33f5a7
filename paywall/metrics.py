"""Counts and sums for Prometheus (extra `[metrics]`).

    prometheus_client.REGISTRY.register(paywall.metrics.Collector(wall.sights))

for the counts of one worker,
or `/metrics` of the dashboard, which has those of all workers, counted since it began, and the sums
of the store. Amounts are in whole tokens, as floats: for graphs, not for books.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector as PrometheusCollector

from paywall.counts import BOUNDS_US, Counts
from paywall.dashboard.view import View
from paywall.protocol.money import KNOWN_ASSETS
from paywall.sights import Sights

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST


class Collector(PrometheusCollector):
    """What one paywall of this process (`Paywall.sights`) has counted since it began."""

    def __init__(self, sights: Sights) -> None:
        self._sights = sights

    def collect(self) -> Iterable[Metric]:
        return requests(self._sights.total)


class _Fixed(PrometheusCollector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def exposition(view: View) -> bytes:
    """The metrics of all workers and of the store, as Prometheus reads them."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Fixed([*requests(view.traffic.since_start), *_sums(view), _alarms(view)]))
    text: bytes = generate_latest(registry)
    return text


def requests(told: Counts) -> Iterator[Metric]:
    """Counters and histograms of requests."""
    outcomes = CounterMetricFamily(
        "paywall_requests", "Priced requests by outcome.", labels=["route", "outcome"]
    )
    latency = HistogramMetricFamily(
        "paywall_latency_seconds", "Time until the head of a paid answer.", labels=["route"]
    )
    for name, route in sorted(told.routes.items()):
        for outcome, count in sorted(route.outcomes.items()):
            outcomes.add_metric([name, outcome], count)
        latency.add_metric([name], _buckets(route.latency), route.latency_us / 1e6)
    reasons = CounterMetricFamily("paywall_refusals", "Refusals by reason.", labels=["reason"])
    for reason, count in sorted(told.reasons.items()):
        reasons.add_metric([reason], count)
    yield from (outcomes, latency, reasons)


def _buckets(latency: list[int]) -> list[tuple[str, float]]:
    """Prometheus's are cumulative."""
    bounds = [*(str(bound / 1e6) for bound in BOUNDS_US), "+Inf"]
    return [(bound, float(sum(latency[: at + 1]))) for at, bound in enumerate(bounds)]


def _sums(view: View) -> Iterator[Metric]:
    labels = ["network", "asset"]
    gauges = {
        "earned": GaugeMetricFamily("paywall_earned", "What the ledger holds.", labels=labels),
        "unclaimed": GaugeMetricFamily(
            "paywall_unclaimed", "Charged and not claimed on chain: at risk.", labels=labels
        ),
        "remaining": GaugeMetricFamily(
            "paywall_deposits_remaining", "What payers may still spend.", labels=labels
        ),
        "open": GaugeMetricFamily("paywall_channels_open", "Open channels.", labels=labels),
    }
    for token in view.tokens:
        asset = KNOWN_ASSETS.get(token)
        unit = 10**asset.decimals if asset else 1
        name = [token.network, asset.symbol if asset else token.address.hex()]
        held = view.holdings(token)
        gauges["earned"].add_metric(name, view.takings(token).total.amount / unit)
        gauges["unclaimed"].add_metric(name, held.unclaimed / unit)
        gauges["remaining"].add_metric(name, held.remaining / unit)
        gauges["open"].add_metric(name, held.open)
    yield from gauges.values()


def _alarms(view: View) -> Metric:
    """By name: a subject may be any channel, and a label must not have so many values."""
    standing = GaugeMetricFamily(
        "paywall_alarms", "Alarms that stand.", labels=["network", "alarm"]
    )
    for network, alarms in view.alarms.items():
        for name, count in sorted(Counter(name for name, _, _ in alarms).items()):
            standing.add_metric([network, name], count)
    return standing
