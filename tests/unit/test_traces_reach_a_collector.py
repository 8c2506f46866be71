"""Spans of calls, as a collector gets them over OTLP: nested, in time, a part of the caller's trace or of none."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from collector import Collector
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from florence2_sam2.client.marks import Marks
from florence2_sam2.server import records
from florence2_sam2.server.errors import Overloaded
from florence2_sam2.server.records import Record
from florence2_sam2.server.reports import Reports
from florence2_sam2.server.settings import Settings
from florence2_sam2.server.tracing import Parent, nearest, parent_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as opened:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", opened.endpoint)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield opened


def traced() -> Reports:
    return Reports(Settings(tracing=True), print)


def call() -> Record:
    """A call with two stages, one of which asks a model."""
    record = Record("segment", "id", keeps=True)
    records.enter(record)
    with records.span("fetch", host="example.org", method="GET"):
        time.sleep(0.002)
    with records.span("caption"), records.span("florence2"):
        time.sleep(0.002)
    records.note(objects=2, filtered={"area": 1}, waited=0.1)
    return record


def test_a_call_is_a_part_of_its_callers_trace(collector: Collector) -> None:
    reports = traced()
    reports.put(call(), Parent(SAMPLED, "vendor=1"), None)
    reports.close()
    whole, fetch, caption, florence2 = collector.of(TRACE)
    assert [span.name for span in (whole, fetch, caption, florence2)] == [
        "segment",
        "fetch",
        "caption",
        "florence2",
    ]
    assert (whole.parent, whole.state) == (SPAN, "vendor=1")
    assert fetch.parent == caption.parent == whole.id
    assert florence2.parent == caption.id
    assert whole.begin <= fetch.begin <= fetch.end <= caption.begin <= florence2.begin
    assert florence2.end <= caption.end <= whole.end
    assert fetch.end - fetch.begin >= 2_000_000
    assert abs(whole.begin / 1e9 - time.time()) < 60
    assert whole.attributes == {
        "florence2_sam2.request_id": "id",
        "florence2_sam2.objects": 2,
        "florence2_sam2.filtered.area": 1,
        "rpc.response.status_code": "OK",
    }
    assert fetch.attributes == {"server.address": "example.org", "http.request.method": "GET"}
    assert not any(span.error for span in (whole, fetch, caption, florence2))
    assert whole.resource["service.name"] == "florence2-sam2"
    assert whole.resource["service.version"]


def test_without_a_caller_a_trace_begins(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "pictures")
    reports = traced()
    reports.put(call(), None, Overloaded("the server is full"))
    reports.close()
    whole = next(span for span in collector.spans if span.name == "segment")
    assert whole.parent == ""
    assert len(collector.of(whole.trace)) == 4
    assert whole.error
    assert whole.attributes["error.type"] == whole.attributes["rpc.response.status_code"] == "UNAVAILABLE"
    assert whole.resource["service.name"] == "pictures"


def test_what_the_caller_does_not_sample_is_not_exported(collector: Collector) -> None:
    reports = traced()
    for parent in (UNSAMPLED, SAMPLED):
        reports.put(call(), Parent(parent), None)
    reports.close()
    assert len(collector.spans) == 4


def test_the_sampler_is_that_of_the_environment(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    reports = traced()
    reports.put(call(), None, None)
    reports.put(call(), Parent(SAMPLED), None)
    reports.close()
    assert {span.trace for span in collector.spans} == {TRACE}


def test_a_collector_that_is_away_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with Collector() as gone:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", gone.endpoint)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    said: list[str] = []
    reports = Reports(Settings(tracing=True), said.append)
    took = []
    for _ in range(500):
        record = call_without_time()
        began = time.perf_counter()
        reports.put(record, None, None)
        took.append(time.perf_counter() - began)
    assert sorted(took)[len(took) // 2] < 1e-3
    began = time.monotonic()
    reports.close()
    assert time.monotonic() - began < 10
    assert len(said) <= 1, "once a minute"


def call_without_time() -> Record:
    record = Record("segment", "id", keeps=True)
    record.end(record.begin("caption", None, {}))
    return record


@pytest.mark.parametrize(
    "sent",
    [
        None,
        17,
        "",
        "not one",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"{SAMPLED}-more",
        f"cc-{TRACE}-{SPAN}-01-{'x' * 600}",
    ],
)
def test_what_is_no_trace_is_ignored(sent: object) -> None:
    assert parent_of({"traceparent": sent, "tracestate": "vendor=1"}) is None


def test_what_is_one_is_taken() -> None:
    assert parent_of({"traceparent": SAMPLED}) == Parent(SAMPLED)
    taken = parent_of({"traceparent": f"cc-{TRACE}-{SPAN}-01-more", "tracestate": "vendor=1"})
    assert taken == Parent(f"cc-{TRACE}-{SPAN}-01-more", "vendor=1")
    assert taken is not None
    assert taken.trace_id == TRACE
    assert parent_of({"traceparent": SAMPLED, "tracestate": "x" * 513}) == Parent(SAMPLED)


def test_tritons_own_span_comes_between_where_it_is_of_the_callers_trace() -> None:
    caller, tritons = Parent(SAMPLED), f"00-{TRACE}-{'1' * 16}-01"
    assert nearest(caller, None) == caller
    assert nearest(None, None) is None
    assert nearest(caller, json.dumps({"traceparent": tritons})) == Parent(tritons)
    assert nearest(None, json.dumps({"traceparent": tritons})) == Parent(tritons)
    assert nearest(caller, json.dumps({"traceparent": f"00-{'2' * 32}-{'1' * 16}-01"})) == caller


def test_the_client_continues_the_span_that_is_active() -> None:
    assert Marks.of("id", None).headers == {}
    context = SpanContext(int(TRACE, 16), int(SPAN, 16), False, TraceFlags(1))
    with trace.use_span(NonRecordingSpan(context)):
        assert Marks.of("id", None).headers == {"traceparent": SAMPLED}
        assert Marks.of("id", UNSAMPLED).headers == {"traceparent": UNSAMPLED}, "what is given wins"
    with TracerProvider().get_tracer("test").start_as_current_span("mine") as span:
        headers = Marks.of("id", None).headers
        assert headers["traceparent"].split("-")[2] == f"{span.get_span_context().span_id:016x}"
    for wrong in ("", "00-1-2-3", SAMPLED + "\n"):
        with pytest.raises(ValueError, match=r"^traceparent: "):
            Marks.of("id", wrong)


WITHOUT = """
import sys
from florence2_sam2.client.marks import Marks
from florence2_sam2.server.reports import Reports
from florence2_sam2.server.settings import Settings
from florence2_sam2.server.triton import async_model
assert Marks.of(None, None).headers == {}
Reports(Settings(), print).close()
print(sorted(name for name in sys.modules if name.startswith("opentelemetry")))
"""


def test_nothing_of_it_is_imported_where_it_is_off() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_the_want_of_the_packages_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ValueError, match=r"^tracing: .* pip install 'florence2-sam2\[tracing\]'$"):
        traced()
