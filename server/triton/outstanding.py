"""Calls from this process to other models that have not been answered: how many there may be, and for how long."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

# Each call to another model holds a thread of the event loop's executor while it waits, and one of Triton's own
# (`thread-pool-size`), which also hands on the answers of this model.
CALL_THREADS = 64
# Those that are left to answers and to health requests, however many calls wait.
SPARE_THREADS = 8


class Outstanding:
    """Belongs to one event loop.

    Attributes:
        answers: how many calls have been answered, well or not.
    """

    def __init__(
        self, most: int = CALL_THREADS - SPARE_THREADS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.answers = 0
        self._places = asyncio.Semaphore(most)
        self._clock = clock
        self._waiting: Counter[str] = Counter()
        self._moved: dict[str, float] = {}

    async def begin(self, model: str, watched: bool = True) -> None:
        """Wait for a place, and take it. `end` must follow when the model has answered, even if nobody waits for that.

        Args:
            watched: whether `waits_for` is to tell of this call.
        """
        await self._places.acquire()
        if watched:
            if not self._waiting[model]:
                self._moved[model] = self._clock()
            self._waiting[model] += 1

    def end(self, model: str, watched: bool = True) -> None:
        """A call has been answered."""
        self._places.release()
        self.answers += 1
        if watched:
            self._waiting[model] -= 1
            self._moved[model] = self._clock()

    def waits_for(self) -> dict[str, float]:
        """The models that are being waited for, and for how many seconds each has answered no call: one that stands
        still does not hide behind callers that give up and come again.
        """
        now = self._clock()
        return {model: now - self._moved[model] for model, count in self._waiting.items() if count}
