"""A model's numbers on Triton's metrics page (Prometheus text, `/metrics`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from florence2_sam2.server.metrics import DECLARED, PREFIX, Labels, Metrics

if TYPE_CHECKING:
    from triton_python_backend_utils import MetricFamily

SECONDS = 1.0  # between two looks at the numbers


class Published:
    """Tells Triton what has changed. Belongs to one thread at a time."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._families: dict[str, MetricFamily] = {}
        self._shown: dict[tuple[str, Labels], tuple[Any, float]] = {}

    def update(self) -> None:
        """One message to Triton's process for each number that is not what it was."""
        for (name, labels), value in self._metrics.values().items():
            metric, before = self._shown.get((name, labels), (None, 0.0))
            if metric is None:
                metric = self._family(name).Metric(labels=dict(labels))
            elif value == before:
                continue
            if DECLARED[name][0]:
                metric.increment(value - before)
            else:
                metric.set(value)
            self._shown[name, labels] = metric, value

    def _family(self, name: str) -> MetricFamily:
        import triton_python_backend_utils as pb_utils

        if name not in self._families:
            grows, description = DECLARED[name]
            kind = pb_utils.MetricFamily.COUNTER if grows else pb_utils.MetricFamily.GAUGE
            self._families[name] = pb_utils.MetricFamily(
                name=PREFIX + name, description=description, kind=kind
            )
        return self._families[name]
