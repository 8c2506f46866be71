"""Numbers about what a server does, declared here once; `server/triton/metrics.py` shows them on Triton's metrics page.

Counting costs a dictionary entry. Triton learns the numbers in its own time, since telling it takes a message to its
process.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

PREFIX = "florence2_sam2_"

Labels = tuple[tuple[str, str], ...]

# name → (whether it only grows, description). Seconds and bytes are in the names.
DECLARED: Mapping[str, tuple[bool, str]] = {
    "requests_total": (
        True,
        "Answered requests, by model and by code (OK, INVALID_ARGUMENT, UNAVAILABLE ...)",
    ),
    "requests_in_flight": (False, "Requests that a model is working on or keeps waiting"),
    "segment_waiting": (False, "Calls of segment that wait for a place, by priority"),
    "segment_stopped": (False, "Bulk calls of segment that give way to an interactive one"),
    "segment_fetching": (False, "Pictures that segment is fetching from URLs"),
    "segment_refused_total": (True, "Calls of segment refused for want of room, by reason"),
    "segment_waiting_seconds_total": (True, "Time that calls of segment have waited for a place"),
    "segment_stage_seconds_total": (True, "Time in each stage of segment"),
    "segment_objects_total": (True, "Objects in the answers of segment"),
    "segment_filtered_total": (True, "Found things that segment left out, by reason"),
    "memory_results_total": (
        True,
        "Results asked of the memory: kept already, joined while under way, made; and evicted",
    ),
    "memory_bytes": (False, "Bytes that the memory keeps"),
    "tokens_total": (True, "Tokens that Florence-2 has written"),
    "decoder_requests_total": (True, "Requests that Florence-2 has answered"),
    "decoder_seconds_total": (True, "Time that Florence-2's requests spent waiting, encoding and decoding"),
    "decoder_waiting": (False, "Requests that wait for rows of the decoder"),
    "decoder_rows": (False, "Rows of the decoder in use: sequences that decode together"),
}


@dataclass
class Metrics:
    """The numbers of one model. May be counted from any thread."""

    _values: dict[tuple[str, Labels], float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Count up. `name` is one of DECLARED that only grows."""
        if not DECLARED[name][0] or amount < 0:
            raise ValueError(f"{name} cannot be counted up by {amount}")
        key = name, tuple(sorted(labels.items()))
        with self._lock:
            self._values[key] = self._values.get(key, 0.0) + amount

    def set(self, name: str, value: float, **labels: str) -> None:
        """What it is now, in total. Of one that only grows it must not have been more."""
        key = name, tuple(sorted(labels.items()))
        with self._lock:
            if DECLARED[name][0] and value < self._values.get(key, 0.0):
                raise ValueError(f"{name} only grows")
            self._values[key] = float(value)

    def values(self) -> dict[tuple[str, Labels], float]:
        """All numbers by name and labels."""
        with self._lock:
            return dict(self._values)
