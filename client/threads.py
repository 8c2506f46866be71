"""Threads beside an event loop for what may take long, as fetching from a slow web server does.

`asyncio.to_thread` has few threads, which others need too, and the end of the program waits for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Threads:
    """At most `most` at once. Belongs to one event loop."""

    def __init__(self, most: int) -> None:
        self._places = asyncio.Semaphore(most)

    async def run(self, call: Callable[[], T], deadline: float | None) -> T:
        """`call()`, in a thread of its own. Whoever is cancelled leaves it behind: it keeps its place until it ends.

        Args:
            deadline: for the wait for a place, in seconds of `time.monotonic`.

        Raises:
            TimeoutError: the deadline came first.
            Exception: what `call` raises.
        """
        async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
            await self._places.acquire()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def settle(outcome: Callable[[], None]) -> None:
            self._places.release()
            if not done.done():  # it is, where the caller was cancelled
                outcome()

        def work() -> None:
            try:
                outcome = functools.partial(done.set_result, call())
            except Exception as error:
                outcome = functools.partial(done.set_exception, error)
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(settle, outcome)

        try:
            threading.Thread(target=work, name="segment-fetch", daemon=True).start()
        except RuntimeError:  # the system has no more threads
            self._places.release()
            raise
        return await done
