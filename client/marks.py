"""What a call is known by at the servers: a request id, and the trace that it is a part of."""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from florence2_sam2.client.errors import SegmenterError

LONGEST_ID = 128  # the servers' limit
_ID = re.compile(rf"[ -~]{{1,{LONGEST_ID}}}")
# https://www.w3.org/TR/trace-context
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True)
class Marks:
    """Of one call, its retries included. `headers`: gRPC metadata."""

    request_id: str
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, request_id: str | None, traceparent: str | None) -> Marks:
        """Those that the caller gives; else a new id, and the caller's own OpenTelemetry span, if there is one now.

        Raises:
            ValueError: one of them is malformed.
        """
        if request_id is None:
            request_id = secrets.token_hex(8)
        elif not isinstance(request_id, str) or not _ID.fullmatch(request_id):
            raise ValueError(f"request_id: 1 to {LONGEST_ID} characters of printable ASCII are wanted")
        if traceparent is None:
            return cls(request_id, _current_span())
        if not isinstance(traceparent, str) or not _TRACEPARENT.fullmatch(traceparent):
            raise ValueError("traceparent: this is none as W3C's Trace Context has it (00-…-…-01)")
        return cls(request_id, {"traceparent": traceparent})

    @contextmanager
    def on_errors(self) -> Iterator[None]:
        """Within, errors get the request id."""
        try:
            yield
        except SegmenterError as error:
            error.request_id = self.request_id
            raise


def _current_span() -> dict[str, str]:
    """Headers of the span that is active here. A program that has not imported OpenTelemetry has none."""
    if "opentelemetry.trace" not in sys.modules:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    return headers
