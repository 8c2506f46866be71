"""OpenTelemetry traces: the record of a call that has ended becomes a span for the call and one for each of its stages.

Spans are made of what was noted, when the call is over and beside the event loop: while it is worked on, tracing costs
it nothing, and OpenTelemetry's packages are imported only where tracing is switched on. What they export to, how much
of it, and under which name, is said by OpenTelemetry's own environment variables.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from florence2_sam2 import __version__
from florence2_sam2.server.records import FETCH, STAGES, WAITED, Record

if TYPE_CHECKING:
    from opentelemetry.context import Context

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
PREFIX = "florence2_sam2."
SERVICE = "florence2-sam2"
MISSING = "OpenTelemetry is not installed: pip install 'florence2-sam2[tracing]'"
COMPLAIN_SECONDS = 60.0
_LOGGER = "opentelemetry"

# https://www.w3.org/TR/trace-context: version, trace, parent span, flags.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})(?P<span>[0-9a-f]{16})-[0-9a-f]{2}(-.*)?"
)
_LONGEST = 512  # of either header; of a tracestate the recommendation asks no more
_IN_SPANS = (STAGES, WAITED)  # facts that spans tell better
# What a stage's fact is called in OpenTelemetry's semantic conventions.
_CONVENTIONS = {"host": "server.address", "method": "http.request.method", "scheme": "url.scheme"}


@dataclass(frozen=True)
class Parent:
    """The span of the caller's that a call is a part of, as W3C's headers say it."""

    traceparent: str
    tracestate: str = ""

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return self.traceparent.split("-")[1]


def parent_of(parameters: Mapping[str, Any]) -> Parent | None:
    """What the caller has sent; None without, or if it is malformed: the standard says to begin a trace then.

    Args:
        parameters: the request's, by lower-case name, headers that Triton hands on among them.
    """
    traceparent, tracestate = parameters.get(TRACEPARENT), parameters.get(TRACESTATE)
    if not isinstance(traceparent, str) or len(traceparent) > _LONGEST:
        return None
    found = _TRACEPARENT.fullmatch(traceparent.strip())
    if found is None or (traceparent.startswith("00") and found[3]):
        return None
    kept = isinstance(tracestate, str) and len(tracestate) <= _LONGEST
    return Parent(traceparent.strip(), str(tracestate) if kept else "")


def nearest(caller: Parent | None, context: str | None) -> Parent | None:
    """The span that a call is a part of, where Triton may make traces too.

    Args:
        context: Triton's own span of the request, as its OpenTelemetry mode tells it: W3C's headers as JSON.
    """
    tritons = parent_of(json.loads(context)) if context else None
    # Triton's trace may be one of its own making, and the caller wants theirs.
    if tritons is None or (caller is not None and caller.trace_id != tritons.trace_id):
        return caller
    return tritons


def check() -> None:
    """Whether traces can be made.

    Raises:
        ValueError: OpenTelemetry's packages are not there; one line.
    """
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace.export  # noqa: F401
    except ImportError:
        raise ValueError(f"tracing: {MISSING}") from None


class Tracer:
    """Makes spans, which a thread of OpenTelemetry's exports in batches, over HTTP. What cannot be exported is dropped.

    Args:
        complain: is told, once a minute at most, what OpenTelemetry has to say, as that nobody takes the spans.

    Raises:
        ValueError: OpenTelemetry's packages are not there.
    """

    def __init__(self, complain: Callable[[str], None]) -> None:
        check()
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        logger = logging.getLogger(_LOGGER)
        logger.handlers[:] = [_Complaints(complain)]
        logger.propagate = False
        resource = Resource.create({"service.version": __version__})
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: SERVICE}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer(SERVICE, __version__)
        self._propagator = TraceContextTextMapPropagator()

    def export(self, record: Record, parent: Parent | None, code: str, ended: float) -> str | None:
        """The spans of one call.

        Args:
            code: as the caller has got it.
            ended: by `time.perf_counter`.

        Returns:
            The trace's id, of a call too that is in no sample; None where OpenTelemetry itself is switched off.
        """
        from opentelemetry.trace import SpanKind, set_span_in_context

        def at(seconds: float) -> int:
            return record.began_ns + round(1e9 * (seconds - record.began))

        facts = {name: value for name, value in record.facts.items() if name not in _IN_SPANS}
        attributes = {
            **_attributes({"request_id": record.request_id, **facts}),
            "rpc.response.status_code": code,
        }
        call = self._tracer.start_span(
            record.model, self._above(parent), SpanKind.SERVER, attributes, start_time=record.began_ns
        )
        if call.is_recording():
            contexts: list[Context] = []
            for part in record.spans:
                within = set_span_in_context(call) if part.parent is None else contexts[part.parent]
                kind = SpanKind.CLIENT if part.name == FETCH else SpanKind.INTERNAL
                made = self._tracer.start_span(
                    part.name, within, kind, _attributes(part.attributes), start_time=at(part.begin)
                )
                contexts.append(set_span_in_context(made))
                _set_status(made, part.code)
                made.end(at(ended if part.end is None else part.end))
            _set_status(call, None if code == "OK" else code)
            call.end(at(ended))
        trace_id = call.get_span_context().trace_id
        return f"{trace_id:032x}" if trace_id else None

    def _above(self, parent: Parent | None) -> Context:
        from opentelemetry.context import Context

        if parent is None:
            return Context()
        carrier = {TRACEPARENT: parent.traceparent}
        if parent.tracestate:
            carrier[TRACESTATE] = parent.tracestate
        return self._propagator.extract(carrier, Context())

    def close(self, seconds: float) -> None:
        """Export what is left, for so long at most."""
        # The provider has no limit of time of its own.
        closing = threading.Thread(target=self._provider.shutdown, name="tracing-end", daemon=True)
        closing.start()
        closing.join(seconds)


def _set_status(span: Any, code: str | None) -> None:
    from opentelemetry.trace import Status, StatusCode

    if code is not None:
        span.set_status(Status(StatusCode.ERROR, code))
        span.set_attribute("error.type", code)


def _attributes(facts: Mapping[str, Any]) -> dict[str, Any]:
    """OpenTelemetry takes no mappings and no None."""
    found: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            found |= {f"{PREFIX}{name}.{part}": number for part, number in value.items()}
        else:
            found[_CONVENTIONS.get(name, PREFIX + name)] = value
    return found


class _Complaints(logging.Handler):
    def __init__(self, complain: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._complain, self._at = complain, float("-inf")

    def emit(self, record: logging.LogRecord) -> None:
        if time.monotonic() >= self._at:
            self._at = time.monotonic() + COMPLAIN_SECONDS
            self._complain("tracing: " + record.getMessage().partition("\n")[0][:300])
