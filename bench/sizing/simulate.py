"""Servers call by call: what closed forms do not give, percentiles and balancing.

All calls in work at one server move equally fast, so one clock for each server, which runs at that speed, tells
when each of them is through: a call that begins when the clock shows c and has w to do ends when it shows c + w.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence

import numpy as np

from bench.sizing.model import Server

# How calls are shared among servers: by chance, in turns, or to the one that has the fewest.
POLICIES = ("random", "round robin", "least connections")
_MOST_STAGES = 200


def arrivals(count: int, seed: int = 0) -> np.ndarray:
    """Moments of `count` calls that know nothing of each other, one a second on average: divide them by a rate."""
    return np.cumsum(-np.log1p(-np.random.default_rng(seed).random(count)))


def works(count: int, variation: float, seed: int = 0) -> np.ndarray:
    """Work of `count` calls, 1 on average. `variation`: square of deviation by mean; 0: all alike, up to 1: Erlang's
    distribution, above: two kinds of calls (hyperexponential, balanced means).

    Raises:
        ValueError: the variation is negative.
    """
    if not 0 <= variation < math.inf:
        raise ValueError(f"variation: {variation} is out of range, at least 0 is needed")
    random = np.random.default_rng([seed, 1])
    stages = _MOST_STAGES + 1 if variation == 0 else round(1 / variation)
    if stages > _MOST_STAGES:
        return np.ones(count)
    if variation <= 1:
        mean: np.ndarray = -np.log1p(-random.random((count, max(stages, 1)))).mean(axis=1)
        return mean
    often = (1 + math.sqrt((variation - 1) / (variation + 1))) / 2
    mean_of = np.where(random.random(count) < often, 1 / (2 * often), 1 / (2 * (1 - often)))
    return -np.log1p(-random.random(count)) * mean_of


class _Line:
    """One server while time goes on. `ended`: where the moments go at which calls are answered."""

    def __init__(self, server: Server, ended: list[float]) -> None:
        self._speed = [0.0] + [1.0 / server.curve.seconds(k) for k in range(1, server.places + 1)]
        self._places, self._room, self._ended = server.places, server.room, ended
        self._clock = self._now = 0.0
        self._inside: list[tuple[float, int]] = []
        self._waiting: deque[tuple[int, float]] = deque()

    def count(self) -> int:
        """Calls that it has."""
        return len(self._inside) + len(self._waiting)

    def next_end(self) -> float:
        """When its next call is through, if none comes before; infinite without any."""
        if not self._inside:
            return math.inf
        return self._now + (self._inside[0][0] - self._clock) / self._speed[len(self._inside)]

    def end(self, at: float) -> int:
        """Let the call end that is through then, and the first that waits begin. Returns the number of the one."""
        self._now = at
        self._clock, number = heapq.heappop(self._inside)
        self._ended[number] = at
        if self._waiting:
            next_number, work = self._waiting.popleft()
            heapq.heappush(self._inside, (self._clock + work, next_number))
        return number

    def advance(self, to: float) -> None:
        """Let time go on."""
        while (at := self.next_end()) <= to and self._inside:
            self.end(at)
        if self._inside:
            self._clock += (to - self._now) * self._speed[len(self._inside)]
        self._now = to

    def arrive(self, number: int, work: float) -> None:
        """A call comes now. It is refused, and never ends, where there is no room."""
        if len(self._inside) < self._places:
            heapq.heappush(self._inside, (self._clock + work, number))
        elif self.count() < self._room:
            self._waiting.append((number, work))


def open_loop(
    server: Server,
    moments: Sequence[float] | np.ndarray,
    work: Sequence[float] | np.ndarray,
    servers: int = 1,
    policy: str = "round robin",
    seed: int = 0,
) -> np.ndarray:
    """Seconds of each call from coming to its answer; NaN where it was refused.

    Args:
        server: each of the `servers`, all alike.
        moments: at which calls come, in rising order, seconds.
        work: of each call, 1 on average.
        policy: one of POLICIES.
    """
    ended = [math.nan] * len(moments)
    lines = [_Line(server, ended) for _ in range(servers)]
    chosen = np.random.default_rng([seed, 2]).integers(servers, size=len(moments)).tolist()
    if policy == "round robin":
        chosen = [number % servers for number in range(len(moments))]
    elif policy not in POLICIES:
        raise ValueError(f"policy: {policy!r} is none of {', '.join(POLICIES)}")
    fewest = policy == "least connections" and servers > 1
    came = [float(moment) for moment in moments]
    for number, (moment, amount) in enumerate(zip(came, map(float, work), strict=True)):
        if fewest:
            for line in lines:
                line.advance(moment)
            # Of those that have equally few, another one each time.
            line = min(lines[number % servers :] + lines[: number % servers], key=_Line.count)
        else:
            line = lines[chosen[number]]
            line.advance(moment)
        line.arrive(number, amount)
    for line in lines:
        line.advance(math.inf)
    return np.array(ended) - np.array(came)


def closed_loop(server: Server, callers: int, work: Sequence[float] | np.ndarray) -> np.ndarray:
    """Seconds of each call when `callers` callers share them, each asking again as soon as it is answered."""
    came, ended = [0.0] * len(work), [math.nan] * len(work)
    line = _Line(server, ended)
    now = 0.0
    for number, amount in enumerate(map(float, work)):
        if number >= callers:
            now = line.next_end()
            line.end(now)
        came[number] = now
        line.arrive(number, amount)
    line.advance(math.inf)
    return np.array(ended) - np.array(came)
