"""A bounded queue in front of the pipeline: what cannot be served soon is refused at once.

Triton's own queue is always empty in front of a model that answers through response senders, so `max_queue_size` and
priority levels in its config would never act; this gate is where they act.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from florence2_sam2.server.errors import Overloaded

RANKS = {"interactive": 0, "bulk": 1}


class Gate:
    """Lets `running` calls in at once and keeps `waiting` more, interactive before bulk, else first come first served.

    Belongs to one event loop.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self._free = running
        self._waiting = waiting
        self._queue: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    @property
    def depth(self) -> int:
        """Calls that wait now."""
        return sum(not turn.done() for _, _, turn in self._queue)

    @asynccontextmanager
    async def enter(self, priority: str) -> AsyncIterator[None]:
        """Wait for a place and hold it.

        Raises:
            Overloaded: as many wait already as may wait.
        """
        if self._free:
            self._free -= 1
        else:
            if self.depth >= self._waiting:
                raise Overloaded(
                    f"the server is full: {self._waiting} calls are waiting already, try again later"
                )
            turn = asyncio.get_running_loop().create_future()
            heapq.heappush(self._queue, (RANKS[priority], next(self._order), turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._leave()  # the place had been given to this call already
                raise
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        while self._queue:
            _, _, turn = heapq.heappop(self._queue)
            if not turn.done():
                turn.set_result(None)  # the place goes on to the next call
                return
        self._free += 1
