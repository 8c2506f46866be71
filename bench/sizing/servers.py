"""How many servers a rate of calls needs, so that 95 of 100 are answered within a limit."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from bench.sizing import simulate
from bench.sizing.model import Server

SHARE = 0.95
# Of requests that are much alike. Alone, a server's own deviation gave 0.01 to 0.1 (bench/RESULTS.md).
VARIATION = 0.05
MOST_REFUSED = 0.001
CALLS = 20_000
_WARM = 0.05  # of the calls, while the server fills
_STEPS = 10  # of the search: a thousandth of the capacity


@dataclass(frozen=True)
class Answer:
    """`servers` servers with `rate` calls a second in all: of each the share of its capacity that is used, seconds
    of calls on average and of the 95th percentile. `highest`: calls a second that one server answers within the
    limit."""

    servers: int
    rate: float
    highest: float
    used: float
    mean: float
    p95: float


class OutOfReach(ValueError):
    """No number of servers keeps the limit; the message says why."""


def p95(
    server: Server,
    rate: float,
    variation: float = VARIATION,
    servers: int = 1,
    policy: str = "random",
    calls: int = CALLS,
) -> float:
    """Seconds within which 95 of 100 answered calls are answered, when `rate` a second come at random for all
    `servers`. Infinite when more than a thousandth of them is refused."""
    moments, work = _drawn(calls, variation)
    seconds = simulate.open_loop(server, moments / rate, work, servers, policy)[int(_WARM * calls) :]
    answered = seconds[~np.isnan(seconds)]
    if len(answered) < (1 - MOST_REFUSED) * len(seconds):
        return math.inf
    return float(np.quantile(answered, SHARE))


def highest_rate(server: Server, limit: float, variation: float = VARIATION, calls: int = CALLS) -> float:
    """Calls a second that one server answers so that 95 of 100 take at most `limit` seconds; 0 where even a call
    alone takes longer. The calls drawn are the same at each rate, so more of them never seem to be faster."""
    if float(np.quantile(_drawn(calls, variation)[1], SHARE)) * server.curve.alone > limit:
        return 0.0
    low, high = 0.0, server.capacity
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if p95(server, middle, variation, calls=calls) <= limit:
            low = middle
        else:
            high = middle
    return low


def needed(server: Server, rate: float, limit: float, variation: float = VARIATION) -> Answer:
    """How many servers `rate` calls a second need. Each is taken to get its share at random, as with many independent
    callers; turns or the fewest connections only make it better.

    Raises:
        OutOfReach: not even a call that is alone is answered in time.
    """
    highest = highest_rate(server, limit, variation)
    if highest == 0:
        alone = float(np.quantile(_drawn(CALLS, variation)[1], SHARE)) * server.curve.alone
        raise OutOfReach(
            f"p95: of calls that have a server to themselves 95 of 100 take {alone:.3g} s already, which is more than"
            f" {limit:g} s; a longer limit or a faster server is needed"
        )
    servers = math.ceil(round(rate / highest, 9))
    each = rate / servers
    return Answer(
        servers,
        rate,
        highest,
        each / server.capacity,
        server.open(each).seconds,
        p95(server, each, variation),
    )


@functools.lru_cache(8)
def _drawn(calls: int, variation: float) -> tuple[np.ndarray, np.ndarray]:
    """Moments, one a second, and work. Its mean is set to 1, so that rates mean the same for every variation."""
    work = simulate.works(calls, variation)
    return simulate.arrivals(calls), work / work.mean()
