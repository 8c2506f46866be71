"""Pictures under way from URLs: in threads of their own, since a web server may take ten seconds for nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from florence2_sam2.server.errors import Overloaded

FETCHES_FULL = "fetches full"  # as the metrics name it


class Fetches:
    """Runs at most `limit` fetches at once. A caller who leaves frees its place when the fetch has ended, not before.

    Belongs to one event loop.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._threads = ThreadPoolExecutor(limit, "fetch")
        self.under_way = 0
        self.refused: Counter[str] = Counter()

    async def run(self, fetch: Callable[[], bytes]) -> bytes:
        """What `fetch` returns.

        Raises:
            Overloaded: as many fetches are under way already as may be.
        """
        if self.under_way >= self._limit:
            self.refused[FETCHES_FULL] += 1
            raise Overloaded(
                f"the server is full: {self._limit} pictures are being fetched already, try again later"
            )
        loop = asyncio.get_running_loop()
        self.under_way += 1
        fetching = self._threads.submit(fetch)

        def ended(_: Future[bytes]) -> None:
            loop.call_soon_threadsafe(self._ended)

        fetching.add_done_callback(ended)
        return await asyncio.wrap_future(fetching)

    def _ended(self) -> None:
        self.under_way -= 1
