"""A span of every priced request for OpenTelemetry (extra `[otel]`).

    paywall.tracing.trace(wall.sights)

It lasts until the head of the answer leaves, stands below whatever span is current then (a server's
own, where ASGI is instrumented), and says route and outcome: no payer, no amount, no address.
"""

import time
from typing import Final

from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider, get_tracer

from paywall.counts import UNAVAILABLE
from paywall.sights import Sights

_NAME: Final = "paywall"


def trace(sights: Sights, provider: TracerProvider | None = None) -> None:
    """Begins to trace a paywall's requests, with the global provider unless another is given."""
    tracer = get_tracer(_NAME, tracer_provider=provider)

    def watch(route: str, outcome: str, elapsed_us: int) -> None:
        ended_ns = time.time_ns()
        span = tracer.start_span(
            f"paywall {outcome}",
            kind=SpanKind.INTERNAL,
            attributes={"http.route": route, "paywall.outcome": outcome},
            start_time=ended_ns - 1000 * elapsed_us,
        )
        if outcome == UNAVAILABLE:
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended_ns)

    sights.watchers.append(watch)
