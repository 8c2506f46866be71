"""A worker: one client, and one shard after the other. Knows nothing of Ray."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from florence2_sam2.bulk import rows, shard
from florence2_sam2.bulk.calls import Calls, NoServer
from florence2_sam2.bulk.errors import BulkError
from florence2_sam2.bulk.folder import Folder
from florence2_sam2.bulk.pace import Pace
from florence2_sam2.bulk.plan import Pictures, Plan
from florence2_sam2.bulk.reading import Reader
from florence2_sam2.client import AsyncSegmenter, Segmentation, UrlRules
from florence2_sam2.client.calls import Fetch

T = TypeVar("T")

TOLD_SECONDS = 0.5


@dataclass(frozen=True)
class Job:
    """What every worker has to know.

    Args:
        output: the folder's URL.
        timeout: seconds for one call.
        patience: seconds that no server may answer.
        in_flight: the most calls of one worker at once.
        credentials: options of the client; its files are there where workers run.
    """

    output: str
    plan: Plan
    servers: tuple[str, ...]
    timeout: float = 120.0
    patience: float = 600.0
    in_flight: int = 8
    fetch: Fetch = "server"
    url_rules: UrlRules = field(default_factory=UrlRules)
    credentials: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Outcome:
    """What became of a shard: a summary, or an error. `fatal`: other shards would fare no better."""

    shard: int
    pictures: int = 0
    failed: int = 0
    objects: int = 0
    error: str | None = None
    fatal: bool = False


class Worker:
    """Does shards. What it opens is opened with the first one, on an event loop of its own.

    Args:
        told: is told now and then how far a shard is.
    """

    def __init__(self, job: Job, told: Callable[[shard.Told], None] = lambda _: None) -> None:
        self._job, self._told = job, told
        self._loop = asyncio.new_event_loop()
        # For all pictures that are read or packed at once, whatever the machine has of cores.
        self._loop.set_default_executor(ThreadPoolExecutor(2 * job.in_flight + 4, "bulk-files"))
        # A thread of its own: whoever calls may do so from any thread, but a client belongs to one loop.
        self._thread = threading.Thread(target=self._loop.run_forever, name="bulk-calls", daemon=True)
        self._thread.start()
        self._opened: _Opened | None = None

    def shard(self, number: int) -> Outcome:
        """Do a shard, unless that has been done."""
        try:
            found = self._await(self._shard(number))
        except BulkError as error:
            fatal = isinstance(error, (NoServer, shard.OtherModels))
            return Outcome(number, error=str(error), fatal=fatal)
        except Exception as error:  # a fault of ours, or of a driver: the other shards may pass
            return Outcome(number, error=f"{type(error).__name__}: {error}")
        return Outcome(number, found.pictures, found.failed, found.objects)

    def close(self) -> None:
        if self._opened is not None:
            self._await(self._opened.segmenter.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _shard(self, number: int) -> rows.Summary:
        if self._opened is None:
            self._opened = await asyncio.to_thread(_Opened, self._job)
        opened, plan = self._opened, self._job.plan
        before = await asyncio.to_thread(shard.summary, opened.folder, plan, number)
        if before is not None:  # another worker has, and Ray does not know
            return before
        entries = await shard.tried_again(lambda: opened.pictures.of(number), "the plan cannot be read")
        found = await shard.results(
            opened.reader.items(entries),
            opened.calls,
            plan.question,
            2 * self._job.in_flight,
            _now_and_then(number, self._told),
        )
        content, summary = await asyncio.to_thread(shard.written, plan, number, found)
        name = plan.file(number)
        created = await shard.tried_again(
            lambda: opened.folder.create(name, content), f"{name} cannot be written to {opened.folder.url}"
        )
        if not created:
            there = await asyncio.to_thread(shard.summary, opened.folder, plan, number)
            return there or summary
        return summary


class _Opened:
    """What a worker holds on to from shard to shard."""

    def __init__(self, job: Job) -> None:
        self.folder = Folder(job.output)
        self.pictures = Pictures(self.folder)
        self.reader = Reader(job.plan.question.source)
        # No retries of the client's own: each refusal is to be seen, the pace depends on it.
        self.segmenter = AsyncSegmenter(
            job.servers if len(job.servers) > 1 else job.servers[0],
            timeout=job.timeout,
            retries=0,
            fetch=job.fetch,
            url_rules=job.url_rules,
            **job.credentials,
        )
        settings: Any = job.plan.question.settings

        async def segment(picture: bytes | str) -> Segmentation:
            return await self.segmenter.segment(picture, **settings)

        self.calls = Calls(segment, Pace(job.in_flight), job.patience)


def _now_and_then(number: int, told: Callable[[shard.Told], None]) -> Callable[[int, int, int], None]:
    last = time.monotonic() - TOLD_SECONDS

    def tell(pictures: int, failed: int, objects: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= TOLD_SECONDS:
            last = now
            told(shard.Told(number, pictures, failed, objects))

    return tell
