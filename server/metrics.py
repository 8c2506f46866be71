"""Numbers about what a server does, declared here once; `server/triton/metrics.py` shows them on Triton's metrics page.

Counting costs a dictionary entry. Triton learns the numbers in its own time, since telling it takes a message to its
process.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

PREFIX = "florence2_sam2_"

Labels = tuple[tuple[str, str], ...]
Key = tuple[str, Labels]
Kind = Literal[
    "counter", "gauge", "histogram"
]  # what only grows, what goes up and down, how values are spread

# From a small demo model's call to one that has waited in a full queue. An alert's limit must be one of them, see
# deploy/monitoring/rules.yml.
SECONDS_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0)


class Declared(NamedTuple):
    """One number. `buckets`: a histogram's upper bounds, the last of them finite."""

    kind: Kind
    description: str
    buckets: tuple[float, ...] = ()


# By name. Seconds and bytes are in the names.
DECLARED: Mapping[str, Declared] = {
    "info": Declared("gauge", "1, with what the server runs: version, checkpoints, their hashes, precision"),
    "limit": Declared("gauge", "What bounds the server, by setting"),
    "uptime_seconds": Declared(
        "gauge", "Time since a model's process has loaded it; stands still when that hangs or is dead"
    ),
    "requests_total": Declared(
        "counter", "Answered requests, by model and by code (OK, INVALID_ARGUMENT, UNAVAILABLE ...)"
    ),
    "requests_in_flight": Declared("gauge", "Requests that a model is working on or keeps waiting"),
    "segment_duration_seconds": Declared(
        "histogram",
        "Time from a call of segment to its answer, waiting and fetching included, by priority; of calls answered OK",
        SECONDS_BUCKETS,
    ),
    "segment_waiting": Declared("gauge", "Calls of segment that wait for a place, by priority"),
    "segment_stopped": Declared("gauge", "Bulk calls of segment that give way to an interactive one"),
    "segment_fetching": Declared("gauge", "Pictures that segment is fetching from URLs"),
    "segment_refused_total": Declared("counter", "Calls of segment refused for want of room, by reason"),
    "segment_waiting_seconds_total": Declared(
        "counter", "Time that calls of segment have waited for a place"
    ),
    "segment_stage_seconds_total": Declared("counter", "Time in each stage of segment"),
    "segment_objects_total": Declared("counter", "Objects in the answers of segment"),
    "segment_filtered_total": Declared("counter", "Found things that segment left out, by reason"),
    "masks_stored_total": Declared(
        "counter", "Masks given to the object store: stored, or failed and sent in the answer"
    ),
    "memory_results_total": Declared(
        "counter", "Results asked of the memory: kept already, joined while under way, made; and evicted"
    ),
    "memory_bytes": Declared("gauge", "Bytes that the memory keeps"),
    "tokens_total": Declared("counter", "Tokens that Florence-2 has written"),
    "decoder_requests_total": Declared("counter", "Requests that Florence-2 has answered"),
    "decoder_seconds_total": Declared(
        "counter", "Time that Florence-2's requests spent waiting, encoding and decoding"
    ),
    "decoder_steps_total": Declared("counter", "Steps of the decoder: one token for each row"),
    "decoder_step_rows_total": Declared(
        "counter", "Rows that the decoder's steps had; by steps, the mean batch"
    ),
    "decoder_busy_seconds_total": Declared("counter", "Time in which the decoder's thread has worked"),
    "decoder_ahead_total": Declared(
        "counter", "Groundings begun with the end of their caption, by how they ended"
    ),
    "decoder_waiting": Declared("gauge", "Requests that wait for rows of the decoder"),
    "decoder_rows": Declared("gauge", "Rows of the decoder in use: sequences that decode together"),
}


@dataclass
class Metrics:
    """The numbers of one model. May be counted from any thread."""

    _values: dict[Key, float] = field(default_factory=dict)
    _observed: dict[Key, list[float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Count up. `name` is one of DECLARED that only grows. 0 shows it before there is anything to count: for
        whoever reads the page, the first count is then a rise.
        """
        if DECLARED[name].kind != "counter" or amount < 0:
            raise ValueError(f"{name} cannot be counted up by {amount}")
        key = _key(name, labels)
        with self._lock:
            self._values[key] = self._values.get(key, 0.0) + amount

    def set(self, name: str, value: float, **labels: str) -> None:
        """What it is now, in total. Of one that only grows it must not have been more."""
        kind, key = DECLARED[name].kind, _key(name, labels)
        if kind == "histogram":
            raise ValueError(f"{name} is made of what is observed")
        with self._lock:
            if kind == "counter" and value < self._values.get(key, 0.0):
                raise ValueError(f"{name} only grows")
            self._values[key] = float(value)

    def observe(self, name: str, *values: float, **labels: str) -> None:
        """Add values to a histogram; none of them show it before there are any."""
        if DECLARED[name].kind != "histogram":
            raise ValueError(f"{name} is no histogram")
        with self._lock:
            self._observed.setdefault(_key(name, labels), []).extend(values)

    def values(self) -> dict[Key, float]:
        """All numbers but the histograms, by name and labels."""
        with self._lock:
            return dict(self._values)

    def take_observed(self) -> dict[Key, list[float]]:
        """What has been observed since this was last asked, by name and labels."""
        with self._lock:
            taken, self._observed = self._observed, {}
        return taken


def _key(name: str, labels: Mapping[str, str]) -> Key:
    return name, tuple(sorted(labels.items()))
