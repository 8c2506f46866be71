"""The metrics page of a real server counts what was asked of it."""

from __future__ import annotations

import re
import time
import urllib.request
from pathlib import Path

import pytest

from florence2_sam2 import __version__
from florence2_sam2.client import InvalidRequest, Segmenter
from florence2_sam2.server.errors import CODES
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.metrics import DECLARED, PREFIX
from florence2_sam2.server.triton.metrics import SECONDS
from tests.e2e.calls import until

pytestmark = pytest.mark.server
PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "demo.jpg"
NOT_WITHOUT_STORE = {"masks_stored_total"}
CAPTION = "The image shows a red airplane. Only this test asks so."


def numbers(server: EmbeddedServer) -> dict[str, float]:
    """Our own metrics: `name{label="value"}` → number, labels in their order."""
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=5) as page:
        text = page.read().decode()
    found = {}
    for name, labels, value in re.findall(rf"^{PREFIX}(\w+)(\{{.*\}})? (\S+)$", text, re.MULTILINE):
        parts = sorted(re.findall(r'(\w+)="([^"]*)"', labels))
        found[name + "".join(f" {key}={said}" for key, said in parts)] = float(value)
    return found


def settled(server: EmbeddedServer) -> dict[str, float]:
    """The metrics once all that other tests did has reached the page, which is told every second."""
    last = numbers(server)
    for _ in range(10):
        time.sleep(1.5 * SECONDS)
        last, before = numbers(server), last
        if last and still(last) == still(before):
            break
    return last


def still(found: dict[str, float]) -> dict[str, float]:
    """Without what changes by itself."""
    return {name: value for name, value in found.items() if not name.startswith("uptime_seconds")}


def test_calls_are_counted(server: EmbeddedServer) -> None:
    before = settled(server)

    def grown(name: str) -> float:
        return numbers(server).get(name, 0.0) - before.get(name, 0.0)

    with Segmenter(server.grpc_address) as segmenter:
        first = segmenter.segment(PICTURE, caption=CAPTION)
        again = segmenter.segment(PICTURE, caption=CAPTION, area_threshold=0.0)
        with pytest.raises(InvalidRequest):
            segmenter.segment(PICTURE, area_threshold=2.0)

    assert until(lambda: grown("requests_total code=INVALID_ARGUMENT model=segment") == 1, 5)
    assert grown("requests_total code=OK model=segment") == 2
    assert grown("segment_objects_total") == len(first.objects) > 0
    assert grown("segment_filtered_total reason=area") == len(again.filtered) > 0
    assert grown("segment_stage_seconds_total stage=ground") > 0
    assert until(lambda: grown("tokens_total") > 4, 5)
    assert grown("decoder_requests_total") == 1  # the second call remembers the grounding
    assert grown("memory_results_total how=kept") >= 1
    assert numbers(server)["memory_bytes"] > 0
    assert numbers(server)["decoder_rows"] == 0
    assert (
        grown("decoder_steps_total") >= grown("tokens_total") > 4
    )  # greedy, and the last step writes `</s>`
    assert grown("decoder_step_rows_total") >= grown("decoder_steps_total")
    assert grown("decoder_busy_seconds_total") > 0
    assert grown("segment_duration_seconds_count priority=interactive") == 2
    assert grown("segment_duration_seconds_bucket le=+Inf priority=interactive") == 2
    took = grown("segment_duration_seconds_sum priority=interactive")
    assert grown("segment_stage_seconds_total stage=ground") < took
    names = {name.partition(" ")[0] for name in numbers(server)}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in names} == set(DECLARED) - NOT_WITHOUT_STORE


def test_a_caption_is_grounded_before_it_is_asked_for(server: EmbeddedServer) -> None:
    """And the answer is the one to who asks with that caption."""
    before, picture = settled(server), PICTURE.read_bytes()

    def ended(how: str) -> float:
        name = f"decoder_ahead_total ended={how}"
        return numbers(server)[name] - before[name]

    with Segmenter(server.grpc_address) as segmenter:
        first = segmenter.segment(picture + b"ahead")
        again = segmenter.segment(picture + b"asked", caption=first.caption)
        assert first.objects == again.objects
        assert until(lambda: ended("taken") == 1, 5)
        segmenter.florence2(picture, "<MORE_DETAILED_CAPTION>")  # nobody has said that it will be grounded
        assert first.objects == segmenter.segment(picture + b"other").objects
    assert until(lambda: ended("taken") == 2, 5)
    assert ended("given_up") == 0


def test_what_has_not_happened_yet_is_shown_as_zero(server: EmbeddedServer) -> None:
    shown = numbers(server)
    for code in CODES:
        for model in ("segment", "segment_http", "segment_stream", "florence2"):
            assert shown[f"requests_total code={code} model={model}"] >= 0
    for reason in ("queue full", "queue timeout", "fetches full"):
        assert shown[f"segment_refused_total reason={reason}"] >= 0
    assert shown["segment_duration_seconds_count priority=bulk"] >= 0


def test_a_server_says_what_it_runs(server: EmbeddedServer) -> None:
    shown = numbers(server)
    info = next(name for name in shown if name.startswith("info "))
    assert shown[info] == 1
    assert f"version={__version__}" in info
    assert "florence2=florence2 " in info
    assert "precision=fp32" in info
    for setting in ("max_in_flight", "max_queue", "max_fetches", "decoder_rows", "memory_bytes"):
        assert shown[f"limit setting={setting}"] == getattr(server.settings, setting)


def test_each_model_shows_that_it_lives(server: EmbeddedServer) -> None:
    def uptimes() -> dict[str, float]:
        return {name: value for name, value in numbers(server).items() if name.startswith("uptime_seconds")}

    before = uptimes()
    assert len(before) == 4
    time.sleep(1)
    assert until(lambda: all(value > before[name] for name, value in uptimes().items()), 5)
