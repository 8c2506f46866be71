"""A server that tells of calls: for each a line in the access log and spans at a collector, whatever became of it."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import secrets
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from calls import logged, picture, png, until
from collector import Collector, Span
from drawn import HEIGHT, SCENE, WIDTH
from opentelemetry.sdk.trace import TracerProvider
from picture_server import PATH, serving

from florence2_sam2.client import DeadlineExceeded, InvalidRequest, Segmenter, SegmenterError
from florence2_sam2.server.launch import embedded
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.settings import Settings

pytestmark = pytest.mark.server

BOXES = [[20, 20, 80, 80]]
STAGES = ["check", "wait", "decode", "caption", "ground", "embed", "masks", "postprocess", "answer"]
SECRET = "a word that nobody may read"


class Told(NamedTuple):
    server: EmbeddedServer
    segmenter: Segmenter
    collector: Collector
    log: Path
    web: str

    def lines(self) -> list[dict[str, Any]]:
        return logged(self.log)

    def line(self, request_id: str) -> dict[str, Any]:
        """The one line of a call."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.lines() if line["request_id"] == request_id]

        assert until(lambda: bool(found()), 20), self.log.read_text()
        (one,) = found()
        return one

    def spans(self, trace: str, root: str) -> list[Span]:
        """Of one call, in the order in which they began; the call's own comes first."""
        self.collector.wait(lambda: any(span.name == root for span in self.collector.of(trace)))
        return self.collector.of(trace)

    def post(self, model: str, **fields: Any) -> bytes:
        kind = "generate_stream" if model == "segment_stream" else "generate"
        body = {"image_base64": base64.b64encode(SCENE).decode()} | fields
        request = urllib.request.Request(
            f"http://{self.server.http_address}/v2/models/{model}/{kind}", json.dumps(body).encode()
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bytes(answer.read())


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    log = tmp_path_factory.mktemp("logs") / "calls.jsonl"
    before = dict(os.environ)
    with Collector() as collector, serving(SCENE) as (web, _):
        os.environ |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        settings = Settings(access_log=str(log), tracing=True, url_allow=(web,))
        try:
            with EmbeddedServer(settings=settings) as server, Segmenter(server.grpc_address) as segmenter:
                yield Told(server, segmenter, collector, log, web)
                assert SECRET not in log.read_text()
        finally:
            os.environ.clear()
            os.environ |= before
    assert not [span for span in collector.spans if SECRET in str(span)]


def traceparent(sampled: bool = True) -> tuple[str, str, str]:
    """A caller's, with its trace and its span."""
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    return f"00-{trace}-{span}-{'01' if sampled else '00'}", trace, span


def children(spans: list[Span], parent: Span) -> list[str]:
    return [span.name for span in spans if span.parent == parent.id]


def is_nested(spans: list[Span]) -> bool:
    """Whether each span lies within the one that it is a part of."""
    by_id = {span.id: span for span in spans}
    within = [(span, by_id[span.parent]) for span in spans if span.parent in by_id]
    return (
        all(outer.begin <= span.begin <= span.end <= outer.end for span, outer in within)
        and len(within) == len(spans) - 1
    )


def test_a_call_has_a_line_and_a_span_for_each_stage(told: Told) -> None:
    sent, trace, caller = traceparent()
    began = time.time()
    result = told.segmenter.segment(SCENE, request_id="whole", traceparent=sent, area_threshold=0.5)
    took = time.time() - began
    line = told.line("whole")
    assert abs(datetime.fromisoformat(line.pop("time")).timestamp() - began) < took + 1
    assert 0 < sum(line["stages_ms"].values()) <= 1e3 * line["seconds"] + 1
    assert 0 < line.pop("seconds") < took
    assert list(line.pop("stages_ms")) == STAGES
    assert 0 <= line.pop("waited") < took
    assert line.pop("filtered") == {
        reason: sum(item.reason == reason for item in result.filtered)
        for reason in {item.reason for item in result.filtered}
    }
    assert line == {
        "request_id": "whole",
        "trace_id": trace,
        "model": "segment",
        "code": "OK",
        "source": "image",
        "image_bytes": len(SCENE),
        "priority": "interactive",
        "width": WIDTH,
        "height": HEIGHT,
        "caption_source": "florence2",
        "objects": len(result.objects),
        "memory": {"made": 5},
    }

    spans = told.spans(trace, "segment")
    assert is_nested(spans)
    whole = spans[0]
    assert (whole.name, whole.parent) == ("segment", caller)
    assert whole.attributes["florence2_sam2.request_id"] == "whole"
    assert whole.attributes["florence2_sam2.objects"] == len(result.objects)
    assert children(spans, whole) == STAGES
    parts = {span.name: children(spans, span) for span in spans if span.parent == whole.id}
    assert parts["caption"] == ["florence2_vision_encoder", "florence2"]
    assert parts["ground"] == ["florence2"]
    assert parts["embed"] == ["sam2_image_encoder"]
    assert parts["masks"] == ["sam2_mask_decoder"]
    writing = [span for span in spans if span.name == "florence2"]
    assert [children(spans, span) for span in writing] == 2 * [["waiting", "encoding", "decoding"]]
    assert all(span.attributes["florence2_sam2.tokens"] > 0 for span in writing)
    stages = [span for span in spans if span.parent == whole.id]
    assert all(one.end <= next_one.begin for one, next_one in itertools.pairwise(stages))
    for name, milliseconds in result.timings_ms.items():
        lasted = sum((span.end - span.begin) / 1e6 for span in stages if span.name == name)
        slack = 2 + (milliseconds if name == "postprocess" else 0)  # a part of `answer` is in that too
        assert abs(lasted - milliseconds) < slack, name
    assert not any(span.error for span in spans)


def test_the_callers_own_span_is_continued(told: Told) -> None:
    with TracerProvider().get_tracer("test").start_as_current_span("caller") as span:
        context = span.get_span_context()
        told.segmenter.segment(SCENE, boxes=BOXES)
        done = told.segmenter.segment_all([SCENE, SCENE], boxes=BOXES, priority="bulk")
        list(told.segmenter.stream(SCENE, boxes=BOXES))
    assert all(one.error is None for one in done)
    trace = f"{context.trace_id:032x}"

    def calls() -> list[str]:
        return [one.name for one in told.collector.of(trace) if one.parent == f"{context.span_id:016x}"]

    told.collector.wait(lambda: len(calls()) >= 4)
    assert sorted(calls()) == ["segment", "segment", "segment", "segment_stream"]


@pytest.mark.parametrize("model", ["segment_http", "segment_stream"])
def test_a_call_over_http_is_one_line_and_one_trace(told: Told, model: str) -> None:
    sent, trace, caller = traceparent()
    known = {"id": f"over {model}", "traceparent": sent, "tracestate": "vendor=1"}
    told.post(model, options=json.dumps({"boxes": BOXES}), **known)
    line = told.line(f"over {model}")
    assert (line["model"], line["code"], line["trace_id"]) == (model, "OK", trace)
    assert (line["source"], line["image_bytes"], line["width"]) == ("image", len(SCENE), WIDTH)
    assert list(line["stages_ms"])[:3] == ["check", "wait", "decode"]
    spans = told.spans(trace, model)
    assert (spans[0].name, spans[0].parent, spans[0].state) == (model, caller, "vendor=1")
    assert children(spans, spans[0]) == ["segment"]
    assert children(spans, spans[1])[:3] == ["check", "wait", "decode"]
    assert is_nested(spans)


def test_refusals(told: Told) -> None:
    sent, trace, caller = traceparent()
    with pytest.raises(InvalidRequest):
        told.segmenter.segment(SCENE, nms_threshold=2, request_id="refused", traceparent=sent)
    line = told.line("refused")
    assert (line["code"], line["field"]) == ("INVALID_ARGUMENT", "nms_threshold")
    whole, check = told.spans(trace, "segment")
    assert whole.parent == caller
    assert whole.error
    assert check.error
    assert check.name == "check"
    assert whole.attributes["error.type"] == check.attributes["error.type"] == "INVALID_ARGUMENT"
    sent, trace, _ = traceparent()
    with pytest.raises(urllib.error.HTTPError):
        told.post("segment_http", traceparent=sent, id="over http", **{SECRET: 1})
    line = told.line("over http")
    assert (line["model"], line["code"], line["field"]) == ("segment_http", "INVALID_ARGUMENT", "other")
    assert [span.error for span in told.spans(trace, "segment_http")] == [True]


def test_a_call_that_is_given_up(told: Told) -> None:
    sent, trace, _ = traceparent()
    large = png(picture(1600, 1200))
    boxes = np.repeat([[200, 200, 1000, 900]], 200, axis=0)
    with pytest.raises(DeadlineExceeded):
        told.segmenter.segment(
            large, boxes=boxes, nms_threshold=1, timeout=0.3, request_id="given up", traceparent=sent
        )
    assert told.line("given up")["code"] == "CANCELLED"
    whole = told.spans(trace, "segment")[0]
    assert whole.attributes["error.type"] == "CANCELLED"


def test_of_a_url_only_the_host_is_told(told: Told) -> None:
    sent, trace, _ = traceparent()
    url = f"http://{told.web}{PATH}"
    told.segmenter.segment(url, boxes=BOXES, request_id="from afar", traceparent=sent)
    line = told.line("from afar")
    assert (line["source"], line["image_host"]) == ("url", "127.0.0.1")
    assert line["stages_ms"]["fetch"] > 0
    (fetch,) = [span for span in told.spans(trace, "segment") if span.name == "fetch"]
    assert fetch.attributes == {
        "server.address": "127.0.0.1",
        "url.scheme": "http",
        "http.request.method": "GET",
    }
    with pytest.raises(InvalidRequest):
        told.segmenter.segment(f"{url}?{SECRET.replace(' ', '+')}", request_id="not there")
    assert told.line("not there")["field"] == "image_url"
    assert SECRET.replace(" ", "+") not in told.log.read_text()


def test_what_is_said_of_a_picture_stays_with_its_caller(told: Told) -> None:
    told.segmenter.segment(SCENE, caption=SECRET, request_id="with a caption")
    line = told.line("with a caption")
    assert (line["caption_bytes"], line["caption_source"]) == (len(SECRET), "caller")
    told.segmenter.segment(SCENE, phrases=[SECRET], request_id="with phrases")
    assert told.line("with phrases")["caption_source"] == "phrases"


def test_what_is_not_sampled_is_not_exported(told: Told) -> None:
    unsampled, trace, _ = traceparent(sampled=False)
    told.segmenter.segment(SCENE, boxes=BOXES, traceparent=unsampled, request_id="unsampled")
    sampled, other, _ = traceparent()
    told.segmenter.segment(SCENE, boxes=BOXES, traceparent=sampled)
    assert told.line("unsampled")["trace_id"] == trace
    told.spans(other, "segment")
    assert told.collector.of(trace) == []


def test_callers_who_share_work_have_traces_of_their_own(told: Told) -> None:
    sent = [traceparent() for _ in range(4)]
    scene = png(picture(640, 480, seed=9))
    with ThreadPoolExecutor(4) as pool:
        ask = told.segmenter.segment
        list(pool.map(lambda one: ask(scene, traceparent=one[0], request_id=one[1]), sent))
    counted: dict[str, int] = {}
    for _, trace, caller in sent:
        spans = told.spans(trace, "segment")
        assert spans[0].parent == caller
        assert {"decode", "caption", "ground"} <= set(children(spans, spans[0]))
        for how, count in told.line(trace)["memory"].items():
            counted[how] = counted.get(how, 0) + count
    assert counted["joined"] + counted.get("kept", 0) > counted["made"], counted


def test_the_models_by_themselves(told: Told) -> None:
    sent, trace, caller = traceparent()
    told.segmenter.florence2(SCENE, "<CAPTION>", request_id="florence2 alone", traceparent=sent)
    line = told.line("florence2 alone")
    assert (line["model"], line["code"], line["task"]) == ("florence2", "OK", "<CAPTION>")
    assert line["tokens"] > 0
    spans = told.spans(trace, "florence2")
    assert spans[0].parent == caller
    assert children(spans, spans[0]) == ["florence2_vision_encoder", "waiting", "encoding", "decoding"]


def test_the_log_may_be_rotated(told: Told) -> None:
    told.segmenter.segment(SCENE, boxes=BOXES, request_id="before")
    told.line("before")
    moved = told.log.with_suffix(".1")
    told.log.rename(moved)
    assert until(lambda: told.segmenter.segment(SCENE, boxes=BOXES) and told.log.exists(), 20)
    told.segmenter.segment(SCENE, boxes=BOXES, request_id="after")
    told.line("after")
    assert SECRET not in moved.read_text()


def test_a_collector_that_goes_away_harms_no_call(told: Told) -> None:
    def times() -> list[float]:
        found = []
        for _ in range(10):
            began = time.perf_counter()
            told.segmenter.segment(SCENE, boxes=BOXES)
            found.append(time.perf_counter() - began)
        return sorted(found)

    before = times()
    told.collector.stop()
    for number in range(5):
        told.segmenter.segment(SCENE, boxes=BOXES, request_id=f"alone {number}")
    after = times()
    assert after[5] < 3 * before[5] + 0.05
    assert all(told.line(f"alone {number}")["code"] == "OK" for number in range(5))
    with contextlib.suppress(
        SegmenterError
    ):  # nor does the server take longer to be asked for something wrong
        told.segmenter.segment(SCENE, nms_threshold=2)
    told.collector.start()
    said = told.server.log_path.read_text("utf-8", "replace").count('"tracing: ')
    assert said <= 4, "each model's process may complain once a minute"


@pytest.mark.long
def test_where_triton_makes_traces_too_ours_are_parts_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = embedded.server_command
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        settings = ("mode=opentelemetry", "rate=1", "level=TIMESTAMPS")
        more = [*settings, f"opentelemetry,url={collector.endpoint}/v1/traces"]
        flags = [f"--trace-config={setting}" for setting in more]
        monkeypatch.setattr(embedded, "server_command", lambda *given, **named: ours(*given, **named) + flags)
        sent = [traceparent() for _ in range(5)]
        with EmbeddedServer(settings=Settings(tracing=True)) as server:
            with Segmenter(server.grpc_address) as segmenter:
                for header, _, _ in sent:
                    segmenter.segment(SCENE, boxes=BOXES, traceparent=header)
            collector.wait(lambda: all(any(map(is_ours, collector.of(trace))) for _, trace, _ in sent))
        below_triton = 0
        for _, trace, caller in sent:
            spans = {span.id: span for span in collector.of(trace)}
            own = next(filter(is_ours, spans.values()))
            while own.parent in spans:
                own = spans[own.parent]
            assert own.parent == caller
            below_triton += own.name == "InferRequest"
        assert below_triton


def is_ours(span: Span) -> bool:
    return span.name == "segment" and span.resource["service.name"] == "florence2-sam2"
