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
    ):
        with pytest.raises(ValueError, match=r"cannot be counted up|only grows"):
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
    for name, (grows, description) in DECLARED.items():
        assert re.fullmatch(r"[a-z][a-z_]*[a-z]", name)
        assert name.endswith("_total") == grows
        assert description


def test_triton_is_told_changes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library of Triton's stub exists in stubs only; `tests/e2e` reads the page of a real server."""
    told: list[tuple[str, str, float]] = []

    class Family:
        COUNTER, GAUGE = "counter", "gauge"

        def __init__(self, name: str, description: str, kind: str) -> None:
            self.name = name

        def Metric(self, labels: dict[str, str]) -> Any:
            return SimpleNamespace(
                increment=lambda value: told.append((self.name, "by", value)),
                set=lambda value: told.append((self.name, "to", value)),
            )

    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", SimpleNamespace(MetricFamily=Family))
    metrics = Metrics()
    published = Published(metrics)
    metrics.add("tokens_total", 3)
    metrics.set("decoder_rows", 0)
    published.update()
    published.update()
    metrics.add("tokens_total", 2)
    published.update()
    assert told == [
        ("florence2_sam2_tokens_total", "by", 3),
        ("florence2_sam2_decoder_rows", "to", 0),
        ("florence2_sam2_tokens_total", "by", 2),
    ]
