"""A collector of OpenTelemetry traces on loopback: takes what an exporter sends over HTTP, OTLP's protobufs or JSON."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Span(NamedTuple):
    """One span. Ids are hexadecimal, times nanoseconds of the epoch; `error`: its status is ERROR."""

    name: str
    kind: int
    trace: str
    id: str
    parent: str
    begin: int
    end: int
    error: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]
    state: str


class Collector:
    """A context manager, within which it listens."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.take(self.path, body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._handler = Handler
        self._at = ("127.0.0.1", 0)

    def start(self) -> None:
        """Listen, at the address of before if there was one."""
        self._server = ThreadingHTTPServer(self._at, self._handler)
        self._at = ("127.0.0.1", self._server.server_port)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Be away."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        """As OTEL_EXPORTER_OTLP_ENDPOINT takes it."""
        return f"http://127.0.0.1:{self._at[1]}"

    def take(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces", path
        if body.startswith(b"{"):
            self.spans += _of_json(json.loads(body))
            return
        request = ExportTraceServiceRequest.FromString(body)
        for of_resource in request.resource_spans:
            resource = _values(of_resource.resource.attributes)
            for scope in of_resource.scope_spans:
                for span in scope.spans:
                    self.spans.append(
                        Span(
                            span.name,
                            span.kind,
                            span.trace_id.hex(),
                            span.span_id.hex(),
                            span.parent_span_id.hex(),
                            span.start_time_unix_nano,
                            span.end_time_unix_nano,
                            span.status.code == span.status.STATUS_CODE_ERROR,
                            _values(span.attributes),
                            resource,
                            span.trace_state,
                        )
                    )

    def of(self, trace: str) -> list[Span]:
        """The spans of one trace, in the order in which they began."""
        return sorted((span for span in self.spans if span.trace == trace), key=lambda span: span.begin)

    def wait(self, enough: Callable[[], bool], seconds: float = 20.0) -> None:
        """Until enough has come."""
        end = time.monotonic() + seconds
        while not enough():
            assert time.monotonic() < end, [span.name for span in self.spans]
            time.sleep(0.02)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _of_json(body: dict[str, Any]) -> list[Span]:
    """As Triton itself sends them."""
    return [
        Span(
            span["name"],
            0,
            span["traceId"],
            span["spanId"],
            span.get("parentSpanId", ""),
            int(span["startTimeUnixNano"]),
            int(span["endTimeUnixNano"]),
            False,
            {},
            {"service.name": "triton"},
            "",
        )
        for resource in body["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]


def _values(attributes: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in attributes}
