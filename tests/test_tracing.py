"""Spans of priced requests, by the real SDK."""

from helpers.provider import FaultyStore, answering, ask, buy, provider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from paywall.tracing import trace


async def test_every_priced_request_is_a_span_below_the_servers() -> None:
    exporter, tracers = InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    store = FaultyStore()
    wall = provider(answering(200), store=store)
    trace(wall.sights, tracers)
    with tracers.get_tracer("server").start_as_current_span("GET") as server:
        await ask(wall)
        await buy(wall, 1_000)
        store.down = {"reserve"}
        await buy(wall, 2_000)
    *spans, last = exporter.get_finished_spans()
    assert last.name == "GET"
    assert [(span.name, span.status.is_ok) for span in spans] == [
        ("paywall quoted", True),
        ("paywall served", True),
        ("paywall unavailable", False),
    ]
    for span in spans:
        assert span.parent == server.get_span_context()
        assert span.attributes is not None
        assert span.attributes["http.route"] == "/priced"
        assert last.start_time <= span.start_time <= span.end_time <= last.end_time
    await wall.close()
