"""What scripts/load and scripts/bench have measured of closed loops and of calls at random, read from what they
keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.sizing.model import PLACES
from bench.speed.results import Json, Ran

FITTED = 4  # callers, at most, whose throughput the model is fitted to
_NORMAL_95 = 1.645  # deviations from the median to the 95th percentile


class NothingMeasured(Exception):
    """There are no values to check the model with; the message says which are missing."""


@dataclass(frozen=True)
class Point:
    """A closed loop: callers, answers a second, seconds."""

    callers: int
    throughput: float
    p50: float
    p95: float


@dataclass(frozen=True)
class Measured:
    """One run of a script. `rates`: raw values of calls at random, empty where there were none."""

    name: str
    points: Sequence[Point]
    rates: Json = field(default_factory=dict)

    def throughput(self, most: int | None = None) -> dict[int, float]:
        """By calls worked on at once, with up to `most` callers."""
        kept = [point for point in self.points if most is None or point.callers <= most]
        return {min(point.callers, PLACES): point.throughput for point in kept}

    def variation(self) -> float:
        """Of the work of calls: of a caller's alone, if they are log-normal. With a fixed number of callers nothing
        else lengthens a call."""
        alone = min(self.points, key=lambda point: point.callers)
        sigma = math.log(max(alone.p95 / alone.p50, 1.0)) / _NORMAL_95
        return math.expm1(sigma**2)


def read(load: Path, speed: Path | None) -> tuple[list[Measured], Ran]:
    """What the scripts have kept in these folders, and the run of the closed loop in `load`.

    Raises:
        NothingMeasured: `load` has no closed loop with more than FITTED callers, or no rates.
    """
    try:
        run, rates = (Ran.read(load / f"{piece}.json") for piece in ("concurrency", "rates"))
    except (OSError, ValueError, TypeError, KeyError):
        raise NothingMeasured(
            f"{load}: there are no results of the parts concurrency and rates; run scripts/load first"
        ) from None
    found = [Measured("scripts/load", _points(run.result.raw.get("points", [])), rates.result.raw)]
    if speed is not None:
        for piece, key in (("perf-analyzer", "rows"), ("sweeps", "callers")):
            try:
                raw = Ran.read(speed / f"{piece}.json").result.raw.get(key, [])
            except (OSError, ValueError, TypeError, KeyError):
                continue
            found.append(Measured(f"scripts/bench, {piece}", _points(raw)))
    usable = [
        one
        for one in found
        if len(one.throughput(FITTED)) > 1 and one.throughput().keys() - one.throughput(FITTED)
    ]
    if found[0] not in usable or not found[0].rates.get("points"):
        raise NothingMeasured(
            f"{load}: its results need 1, {FITTED} and more callers, and rates; run scripts/load without --quick"
        )
    return usable, run


def _points(raw: Sequence[Json]) -> list[Point]:
    """From what either script keeps."""
    points = []
    for one in raw:
        if "Concurrency" in one:  # perf_analyzer's own columns, microseconds
            seconds = one["p50 latency"] / 1e6, one["p95 latency"] / 1e6
            points.append(Point(int(one["Concurrency"]), one["Inferences/Second"], *seconds))
        else:
            callers = one["callers"] if "callers" in one else one["x"]
            points.append(Point(int(callers), one["throughput"], one["p50"], one["p95"]))
    return points
