"""A model's numbers on Triton's metrics page (Prometheus text, `/metrics`)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from florence2_sam2.server.metrics import DECLARED, PREFIX, Key, Metrics

if TYPE_CHECKING:
    from triton_python_backend_utils import MetricFamily

SECONDS = 1.0  # between two looks at the numbers


class Published:
    """Tells Triton what has changed, until it is closed."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._families: dict[str, MetricFamily] = {}
        self._shown: dict[Key, Any] = {}
        self._told: dict[Key, float] = {}
        self._lock = threading.Lock()
        self._closed = False

    def close(self) -> None:
        """Take the numbers from the page. A process that ends with some of them crashes: each tells Triton of its end,
        by means that are gone by then (24.10)."""
        with self._lock:
            self._closed = True
            self._shown.clear()
            self._families.clear()

    def update(self) -> None:
        """One message to Triton's process for each number that is not what it was, and for each observation."""
        with self._lock:
            if not self._closed:
                self._update()

    def _update(self) -> None:
        for key, value in self._metrics.values().items():
            before = self._told.get(key)
            if value == before:
                continue
            if DECLARED[key[0]].kind == "counter":
                self._metric(key).increment(value - (before or 0.0))
            else:
                self._metric(key).set(value)
            self._told[key] = value
        for key, observed in self._metrics.take_observed().items():
            metric = self._metric(key)
            for value in observed:
                metric.observe(value)

    def _metric(self, key: Key) -> Any:
        if key not in self._shown:
            name, labels = key
            buckets = DECLARED[name].buckets
            more = {"buckets": list(buckets)} if buckets else {}
            self._shown[key] = self._family(name).Metric(labels=dict(labels), **more)
        return self._shown[key]

    def _family(self, name: str) -> MetricFamily:
        import triton_python_backend_utils as pb_utils

        if name not in self._families:
            declared = DECLARED[name]
            self._families[name] = pb_utils.MetricFamily(
                name=PREFIX + name,
                description=declared.description,
                kind=getattr(pb_utils.MetricFamily, declared.kind.upper()),
            )
        return self._families[name]
