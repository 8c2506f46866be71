"""Numbers are declared once, count in all threads, and Triton is told what has changed."""

from __future__ import annotations

import re
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from florence2_sam2.server.metrics import DECLARED, Metrics
from florence2_sam2.server.triton.metrics import Published


def test_counts_and_states() -> None:
    metrics = Metrics()
    metrics.add("tokens_total", 3)
    metrics.add("tokens_total")
    metrics.add("requests_total", model="a", code="OK")
    metrics.add("requests_total", code="OK", model="a")
    metrics.set("decoder_rows", 5)
    metrics.set("decoder_rows", 2)
    assert metrics.values() == {
        ("tokens_total", ()): 4,
        ("requests_total", (("code", "OK"), ("model", "a"))): 2,
        ("decoder_rows", ()): 2,
    }


def test_what_only_grows_never_shrinks() -> None:
    metrics = Metrics()
    metrics.set("memory_results_total", 5, how="kept")
    for wrong in (
        lambda: metrics.add("decoder_rows"),
        lambda: metrics.add("tokens_total", -1),
        lambda: metrics.set("memory_results_total", 4, how="kept"),
        lambda: metrics.observe("tokens_total", 1.0),
        lambda: metrics.set("segment_duration_seconds", 1.0),
    ):
        with pytest.raises(ValueError, match=r"cannot be counted up|only grows|no histogram|is made of"):
            wrong()
    with pytest.raises(KeyError):
        metrics.add("unheard_of_total")


def test_threads_lose_no_count() -> None:
    metrics = Metrics()

    def count() -> None:
        for _ in range(2000):
            metrics.add("tokens_total")

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.values()["tokens_total", ()] == 16_000


def test_names_follow_prometheus_conventions() -> None:
    for name, declared in DECLARED.items():
        assert re.fullmatch(r"[a-z][a-z_]*[a-z]", name)
        assert name.endswith("_total") == (declared.kind == "counter")
        assert declared.description
        assert bool(declared.buckets) == (declared.kind == "histogram")
        assert list(declared.buckets) == sorted(set(declared.buckets))


def test_triton_is_told_changes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library of Triton's stub exists in stubs only; `tests/e2e` reads the page of a real server."""
    told: list[tuple[str, str, float]] = []

    class Family:
        COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

        def __init__(self, name: str, description: str, kind: str) -> None:
            self.name, self.kind = name, kind

        def Metric(self, labels: dict[str, str], **more: list[float]) -> Any:
            assert ("buckets" in more) == (self.kind == "histogram")
            return SimpleNamespace(
                increment=lambda value: told.append((self.name, "by", value)),
                set=lambda value: told.append((self.name, "to", value)),
                observe=lambda value: told.append((self.name, "seen", value)),
            )

    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", SimpleNamespace(MetricFamily=Family))
    metrics = Metrics()
    published = Published(metrics)
    metrics.add("tokens_total", 3)
    metrics.set("decoder_rows", 0)
    metrics.add("segment_objects_total", 0)
    metrics.observe("segment_duration_seconds", priority="bulk")
    published.update()
    published.update()
    metrics.add("tokens_total", 2)
    metrics.observe("segment_duration_seconds", 0.5, priority="bulk")
    metrics.observe("segment_duration_seconds", 7.0, 0.5, priority="bulk")
    published.update()
    published.close()
    metrics.add("tokens_total", 1)
    published.update()  # which may be on its way in another thread
    assert told == [
        ("florence2_sam2_tokens_total", "by", 3),
        ("florence2_sam2_decoder_rows", "to", 0),
        ("florence2_sam2_segment_objects_total", "by", 0),
        ("florence2_sam2_tokens_total", "by", 2),
        ("florence2_sam2_segment_duration_seconds", "seen", 0.5),
        ("florence2_sam2_segment_duration_seconds", "seen", 7.0),
        ("florence2_sam2_segment_duration_seconds", "seen", 0.5),
    ]
