"""The metrics page of a real server counts what was asked of it."""

from __future__ import annotations

import re
import time
import urllib.request
from pathlib import Path

import pytest

from florence2_sam2.client import InvalidRequest, Segmenter
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.metrics import DECLARED, PREFIX
from florence2_sam2.server.triton.metrics import SECONDS
from tests.e2e.calls import until

pytestmark = pytest.mark.server
PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "demo.jpg"
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
        if last and last == before:
            break
    return last


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
    names = {name.partition(" ")[0] for name in numbers(server)}
    assert names <= set(DECLARED)
    assert set(DECLARED) - names == set()
