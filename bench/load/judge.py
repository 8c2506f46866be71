"""From calls to figures: rates, percentiles, the knee, and what of them is judged. Nothing is measured here."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.load.wire import REFUSED, Sample
from bench.speed.figures import percentile

KNEE_SHARE = 0.95  # of the best throughput: more callers than give this only wait longer
SHARES = (0.5, 0.95, 0.99)


def knee(throughput: Mapping[int, float]) -> int:
    """The fewest callers whose throughput is within a twentieth of the best.

    Raises:
        ValueError: nothing was measured.
    """
    best = max(throughput.values(), default=0.0)
    if best <= 0:
        raise ValueError("no throughput was measured")
    return min(callers for callers, value in throughput.items() if value >= KNEE_SHARE * best)


def kept_past_knee(throughput: Mapping[int, float]) -> float:
    """The least throughput from the knee on, as a share of the best."""
    at = knee(throughput)
    return min(value for callers, value in throughput.items() if callers >= at) / max(throughput.values())


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Moments in 0..`seconds` at which calls come that know nothing of each other, `rate` a second on average."""
    generator, moments, now = random.Random(seed), [], 0.0
    while (now := now + generator.expovariate(rate)) < seconds:
        moments.append(now)
    return moments


def throughput(samples: Sequence[Sample]) -> float:
    """Answers a second of a closed loop between the first call's end and the last one's beginning: at either end of it
    fewer calls are under way than there are callers.

    Raises:
        ValueError: there is no call.
    """
    begin, end = min(one.ended for one in samples), max(one.sent for one in samples)
    inside = [one for one in samples if one.answered and begin < one.ended <= end]
    if inside:
        return len(inside) / (end - begin)
    seconds = max(one.ended for one in samples) - min(one.sent for one in samples)
    return sum(one.answered for one in samples) / seconds


def latencies(samples: Sequence[Sample]) -> dict[str, float]:
    """Percentiles of the answered calls, seconds; NaN where none was answered."""
    seconds = [one.seconds for one in samples if one.answered]
    return {
        f"p{100 * share:.0f}": percentile(seconds, share) if seconds else float("nan") for share in SHARES
    }


def faults(samples: Sequence[Sample], allowed: Sequence[str] = ()) -> list[str]:
    """What went wrong with calls, in words; refusals are no fault where they are `allowed`."""
    return [f"call {one.number}: {fault}" for one in samples if (fault := one.fault(allowed))]


def codes(samples: Sequence[Sample]) -> dict[str, int]:
    """How many calls ended with each status, the most frequent first."""
    return dict(Counter(one.code for one in samples).most_common())


def slowest_refusal(samples: Sequence[Sample]) -> float:
    """Seconds; 0 where nothing was refused."""
    return max((one.seconds for one in samples if one.refused), default=0.0)


@dataclass(frozen=True)
class Point:
    """One offered load. Rates are calls a second; latencies, in seconds, are of answered calls, from when each was due.
    `late`: how far behind its moment a call was sent, at most."""

    offered: float
    answered: float
    refused: float
    faults: int
    p50: float
    p95: float
    p99: float
    slowest_refusal: float
    late: float

    @classmethod
    def of(cls, samples: Sequence[Sample], begin: float, end: float) -> Point:
        """What calls of an open loop give between `begin` and `end`, in seconds of it: answers that came then, and
        calls that were due then.

        Raises:
            ValueError: no call was due then.
        """
        due = [one for one in samples if begin <= one.due < end]
        if not due:
            raise ValueError("no call was due")
        answers = sum(one.answered and begin <= one.ended < end for one in samples)
        length = end - begin
        return cls(
            offered=len(due) / length,
            answered=answers / length,
            refused=sum(one.refused for one in due) / length,
            faults=len(faults(samples, [REFUSED])),
            **latencies(due),
            slowest_refusal=slowest_refusal(samples),
            late=max(one.sent - one.due for one in samples),
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def goodput_kept(points: Sequence[Point]) -> float:
    """Answers a second at the highest offered load, as a share of the most at any.

    Raises:
        ValueError: nothing was answered at all.
    """
    most = max((point.answered for point in points), default=0.0)
    if most <= 0:
        raise ValueError("nothing was answered")
    return max(points, key=lambda point: point.offered).answered / most
