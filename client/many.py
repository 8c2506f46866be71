"""Many pictures through one client: some at once, answers in order, and a failure is its own picture's only."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from florence2_sam2.client.errors import SegmenterError

P = TypeVar("P")
R = TypeVar("R")

CONCURRENCY = 8  # as many as a server works on at once (its `max_in_flight`)
# Pictures whose answers may wait for an earlier, slower one's, for each that is under way.
AHEAD = 4

# What is one picture's fault: the server's refusal of it, a file that cannot be read, an object that is no picture.
OWN_FAILURES = (SegmenterError, OSError, TypeError, ValueError)


@dataclass(frozen=True)
class Done(Generic[P, R]):
    """What became of one picture: `result`, or the `error` that it failed with."""

    index: int
    """Its place among those that were given, from 0."""
    picture: P
    result: R | None = None
    error: Exception | None = None

    def unwrap(self) -> R:
        """The result.

        Raises:
            Exception: `error`, where there is one.
        """
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result


def each(call: Callable[[P], R], pictures: Iterable[P], concurrency: int) -> Iterator[Done[P, R]]:
    """`call` of each picture, `concurrency` at once, in order.

    `pictures` is read in a thread of its own, up to AHEAD pictures for each place ahead of the caller: it may be
    endless, and an answer does not wait for the next picture.

    Raises:
        ValueError: `concurrency` is less than 1.
        Exception: what reading `pictures` raises, after the answers to those before.
    """
    _require(concurrency)
    return _each(call, pictures, concurrency, contextvars.copy_context())


def _each(
    call: Callable[[P], R], pictures: Iterable[P], concurrency: int, context: contextvars.Context
) -> Iterator[Done[P, R]]:
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="segment")
    room = threading.Semaphore(AHEAD * concurrency)
    taken: queue.SimpleQueue[Future[Done[P, R]] | Exception | None] = queue.SimpleQueue()
    left = threading.Event()

    def attempt(index: int, picture: P) -> Done[P, R]:
        try:
            return Done(index, picture, call(picture))
        except OWN_FAILURES as error:
            return Done(index, picture, error=error)

    def read() -> None:
        end: Exception | None = None
        try:
            for index, picture in enumerate(pictures):
                room.acquire()
                if left.is_set():
                    return
                # Each in a copy of the caller's context, which has the trace that the calls belong to.
                taken.put(pool.submit(context.copy().run, attempt, index, picture))
        except Exception as error:
            end = error
        taken.put(end)

    threading.Thread(target=read, name="segment-pictures", daemon=True).start()
    try:
        while isinstance(future := taken.get(), Future):
            yield future.result()
            room.release()
        if future is not None:
            raise future
    finally:  # also when the caller stops listening: what has not begun is not begun
        left.set()
        room.release()
        pool.shutdown(wait=False, cancel_futures=True)


async def each_awaited(
    call: Callable[[P], Awaitable[R]], pictures: Iterable[P] | AsyncIterable[P], concurrency: int
) -> AsyncIterator[Done[P, R]]:
    """`each` for asyncio; `pictures` may be an asynchronous iterable too. Calls under way are cancelled when the caller
    stops listening.
    """
    _require(concurrency)
    room, places = asyncio.Semaphore(AHEAD * concurrency), asyncio.Semaphore(concurrency)
    taken: asyncio.Queue[asyncio.Task[Done[P, R]] | Exception | None] = asyncio.Queue()
    under_way: set[asyncio.Task[Done[P, R]]] = set()

    async def attempt(index: int, picture: P) -> Done[P, R]:
        async with places:
            try:
                return Done(index, picture, await call(picture))
            except OWN_FAILURES as error:
                return Done(index, picture, error=error)

    async def read() -> None:
        end: Exception | None = None
        index = 0
        try:
            async for picture in _asynchronous(pictures):
                await room.acquire()
                task = asyncio.create_task(attempt(index, picture))
                under_way.add(task)
                taken.put_nowait(task)
                index += 1
        except Exception as error:
            end = error
        taken.put_nowait(end)

    reader = asyncio.create_task(read())
    try:
        while isinstance(task := await taken.get(), asyncio.Task):
            yield await task
            under_way.discard(task)
            room.release()
        if task is not None:
            raise task
    finally:
        reader.cancel()
        for task in under_way:
            task.cancel()


async def _asynchronous(items: Iterable[P] | AsyncIterable[P]) -> AsyncIterator[P]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def _require(concurrency: int) -> None:
    if concurrency < 1:
        raise ValueError(f"concurrency: {concurrency}, at least 1 is needed")
