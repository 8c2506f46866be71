"""A bounded queue in front of the pipeline: what cannot be served soon is refused at once.

Triton's own queue is always empty in front of a model that answers through response senders, so `max_queue_size`,
priority levels and queue timeouts in its config would never act; this gate is where they act.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from florence2_sam2.server.errors import Overloaded
from florence2_sam2.server.segment.turns import Turns

RANKS = {"interactive": 0, "bulk": 1}
# Why a call is refused, as the metrics name it.
QUEUE_FULL, QUEUE_TIMEOUT = "queue full", "queue timeout"


@dataclass(order=True)
class _Waiting:
    rank: int
    number: int
    priority: str = field(compare=False)
    turn: asyncio.Future[None] = field(compare=False)


class Gate:
    """Lets `running` calls in at once and keeps `waiting` more, interactive before bulk, else first come first served.

    Bulk calls leave a quarter of the places, at least one, to interactive ones, which so need not wait for one of them
    to end, and a quarter of the queue, so that those are not refused for them. Belongs to one event loop.

    Args:
        seconds: after which a call that waits is refused.
        turns: hears who is in, so that bulk calls give way to interactive ones.
    """

    def __init__(
        self, running: int, waiting: int, seconds: float = float("inf"), turns: Turns | None = None
    ) -> None:
        self._running, self._waiting, self._seconds = running, waiting, seconds
        self._for_bulk = max(1, running - max(1, running // 4))
        self._in: Counter[str] = Counter()
        self._queue: list[_Waiting] = []
        self._order = itertools.count()
        self._turns = turns or Turns()
        self.refused: Counter[str] = Counter()

    @property
    def inside(self) -> int:
        """Calls that have a place now."""
        return self._in.total()

    @property
    def depth(self) -> int:
        """Calls that wait now."""
        return sum(self.depths().values())

    def depths(self) -> dict[str, int]:
        """Calls that wait now, by priority."""
        counts = Counter(waiting.priority for waiting in self._queue if not waiting.turn.done())
        return {priority: counts[priority] for priority in RANKS}

    def check(self, priority: str) -> None:
        """Whether a call that comes now would be let in or may wait.

        Raises:
            Overloaded: as many wait already as may wait.
        """
        depths = self.depths()
        full = sum(depths.values()) >= self._waiting
        if priority == "bulk":
            full = full or depths["bulk"] >= self._waiting - self._waiting // 4
        if full and not self._has_place(priority):
            self.refused[QUEUE_FULL] += 1
            raise Overloaded(
                f"the server is full: {sum(depths.values())} calls are waiting already, try again later"
            )

    @asynccontextmanager
    async def enter(self, priority: str) -> AsyncIterator[Turns.Call]:
        """Wait for a place and hold it.

        Raises:
            Overloaded: as many wait already as may wait, or the wait was too long.
        """
        self.check(priority)
        if self._has_place(priority):
            self._in[priority] += 1
        else:
            await self._wait(priority)
        call = self._turns.enter(priority)
        try:
            yield call
        finally:
            self._turns.leave(call)
            self._leave(priority)

    def _has_place(self, priority: str) -> bool:
        taken = self._in.total()
        return taken < self._running and (priority != "bulk" or self._in["bulk"] < self._for_bulk)

    async def _wait(self, priority: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, _Waiting(RANKS[priority], next(self._order), priority, turn))
        seconds = None if self._seconds == float("inf") else self._seconds
        try:
            await asyncio.wait_for(turn, seconds)
        except TimeoutError:
            if turn.done() and not turn.cancelled():
                return  # in the last moment
            self.refused[QUEUE_TIMEOUT] += 1
            raise Overloaded(
                f"the server is full: no place was free within {self._seconds:g} s, try again later"
            ) from None
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave(priority)  # the place had been given to this call already
            raise

    def _leave(self, priority: str) -> None:
        self._in[priority] -= 1
        # The heap holds interactive calls first. A bulk call at its head that may not enter keeps nobody out: those
        # behind it are bulk calls too.
        while self._queue:
            first = self._queue[0]
            if not first.turn.done() and not self._has_place(first.priority):
                return
            heapq.heappop(self._queue)
            if not first.turn.done():
                self._in[first.priority] += 1
                first.turn.set_result(None)
