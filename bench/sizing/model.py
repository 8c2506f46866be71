"""One server as a queue, in closed form.

What `segment` does: `places` calls are worked on at once and share the machine, `queue` more wait in the order in
which they came, the next ones are refused. With k in work each of them moves at 1 / curve.seconds(k) of a call a
second, so the server answers k / curve.seconds(k) a second: a birth and death process, which Poisson arrivals fill.
It is exact for calls whose work is exponentially distributed. While nobody waits it is exact for any distribution
of the same mean (processor sharing is insensitive to it); percentiles hang on the distribution, so they come from
`simulate`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bench.sizing.curve import Curve

PLACES, QUEUE = 8, 32  # max_in_flight and max_queue, as the server has them by default


@dataclass(frozen=True)
class Load:
    """What a server does in the long run. Rates are calls a second, `refused` a share of the calls that come; `inside`:
    calls that it has on average, waiting or worked on; `seconds`: from coming to the answer, mean of answered
    calls; `busy`: the share of time in which it has any."""

    offered: float
    answered: float
    refused: float
    inside: float
    seconds: float
    busy: float


@dataclass(frozen=True)
class Server:
    """
    Raises:
        ValueError: no place, or fewer than none that may wait.
    """

    curve: Curve
    places: int = PLACES
    queue: int = QUEUE

    def __post_init__(self) -> None:
        if self.places < 1:
            raise ValueError(f"places: {self.places} is out of range, at least 1 is needed")
        if self.queue < 0:
            raise ValueError(f"queue: {self.queue} is out of range, at least 0 is needed")

    @property
    def room(self) -> int:
        """Calls that it takes at most."""
        return self.places + self.queue

    @property
    def capacity(self) -> float:
        """Answers a second with all places taken, which is what a full queue gives."""
        return self.throughput(self.room)

    def throughput(self, inside: int) -> float:
        """Answers a second while `inside` ≥ 1 calls are there."""
        return self.curve.throughput(min(inside, self.places))

    def chances(self, rate: float) -> np.ndarray:
        """Of 0 … `room` calls being there, when `rate` a second come at random.

        Raises:
            ValueError: the rate is not above 0.
        """
        if not 0 < rate < math.inf:
            raise ValueError(f"rate: {rate} calls a second is out of range, more than 0 is needed")
        steps = [math.log(rate / self.throughput(inside)) for inside in range(1, self.room + 1)]
        return _normal(np.concatenate([[0.0], np.cumsum(steps)]))

    def open(self, rate: float) -> Load:
        """With calls that come at random (Poisson), `rate` a second, and do not come again when refused.

        Raises:
            ValueError: see `chances`.
        """
        chances = self.chances(rate)
        refused = float(chances[-1])
        answered = rate * (1.0 - refused)
        inside = float(chances @ np.arange(len(chances)))
        return Load(rate, answered, refused, inside, inside / answered, 1.0 - float(chances[0]))

    def closed(self, callers: int, pause: float = 0.0) -> Load:
        """With callers who ask again `pause` seconds (on average, exponentially distributed) after each answer: the
        network that mean value analysis with a load-dependent server computes, in its product form.

        Raises:
            ValueError: there is none, or there are more than the server takes; or the pause is negative.
        """
        if not 1 <= callers <= self.room:
            raise ValueError(f"callers: {callers} is out of range, 1 to {self.room} are possible")
        if not 0 <= pause < math.inf:
            raise ValueError(f"pause: {pause} s is out of range, at least 0 is needed")
        if pause == 0:
            answered, inside = self.throughput(callers), float(callers)
            return Load(answered, answered, 0.0, inside, inside / answered, 1.0)
        logs = [0.0]
        for count in range(1, callers + 1):
            coming = (callers - count + 1) / pause
            logs.append(logs[-1] + math.log(coming / self.throughput(count)))
        chances = _normal(np.array(logs))
        inside = float(chances @ np.arange(callers + 1))
        answered = (callers - inside) / pause
        return Load(answered, answered, 0.0, inside, inside / answered, 1.0 - float(chances[0]))


def _normal(logs: np.ndarray) -> np.ndarray:
    """Chances from logarithms of their ratios."""
    weights: np.ndarray = np.exp(logs - logs.max())
    return weights / weights.sum()
