"""What a call has cost is not paid again: results kept under a key, and equal work under way done once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from florence2_sam2.server import records

T = TypeVar("T")
Tell = Callable[[Any], None]


@dataclass
class Counts:
    """How often a result was `kept` already, `joined` under way, or `made`; and how many were `evicted`."""

    kept: int = 0
    joined: int = 0
    made: int = 0
    evicted: int = 0


@dataclass
class Audience:
    """Those who hear of a work's progress: called with an event, it tells them."""

    _listeners: list[Tell] = field(default_factory=list)
    _begin: list[Callable[[], None]] = field(default_factory=list)

    def __call__(self, event: Any) -> None:
        for heard in list(self._listeners):
            heard(event)

    def when_heard(self, begin: Callable[[], None]) -> None:
        """Call `begin` once: now if somebody listens, or as soon as somebody does."""
        if self._listeners:
            begin()
        else:
            self._begin.append(begin)

    def enter(self, heard: Tell) -> None:
        """Listen, until `leave`."""
        self._listeners.append(heard)
        while self._begin:
            self._begin.pop()()

    def leave(self, heard: Tell) -> None:
        self._listeners.remove(heard)


@dataclass
class _Work:
    """A task that `callers` wait for. It belongs to none of them."""

    task: asyncio.Task[Any] | None = None
    callers: int = 0
    audience: Audience = field(default_factory=Audience)


@dataclass
class Memory:
    """Results by key, the least recently used of which go when together they have more than `limit` bytes.

    Belongs to one event loop. With a limit of 0 nothing is kept, but what is under way is still shared. Whoever
    gets a result shares it with others: it must not be changed.
    """

    limit: int
    counts: Counts = field(default_factory=Counts)
    bytes: int = 0
    _kept: OrderedDict[Hashable, tuple[Any, int]] = field(default_factory=OrderedDict)
    _under_way: dict[Hashable, _Work] = field(default_factory=dict)

    def holds(self, key: Hashable, lane: Hashable = None) -> bool:
        """Whether `recall` would do no work of its own now: the result is kept, or under way in that lane."""
        return key in self._kept or (key, lane) in self._under_way

    def get(self, key: Hashable) -> Any:
        """What is kept, or None. From another thread `peek`."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self.peek(key)

    def peek(self, key: Hashable) -> Any:
        """The same, from any thread, and it does not count as use."""
        kept = self._kept.get(key)
        return kept[0] if kept else None

    async def recall(
        self,
        key: Hashable,
        work: Callable[[Audience], Awaitable[T]],
        size: Callable[[T], int],
        lane: Hashable = None,
        heard: Tell | None = None,
    ) -> T:
        """The result of `work`, which is only done when it is neither kept nor under way.

        Work that fails is not kept: its error goes to all who wait for it. A caller who is cancelled leaves the
        others' work alone; when the last one has gone, it is cancelled.

        Args:
            key: everything that decides the result.
            size: the result's bytes.
            lane: who is in a hurry does not join work that was begun in another lane.
            heard: gets what the work tells of its progress from now on, through the audience that it is given. It
                must not raise.
        """
        if key in self._kept:
            self._kept.move_to_end(key)
            self.counts.kept += 1
            records.count_memory("kept")
            kept: T = self._kept[key][0]
            return kept
        place = (key, lane)
        shared = self._under_way.get(place)
        if shared is None:
            self.counts.made += 1
            records.count_memory("made")
            shared = self._under_way[place] = _Work()
            shared.task = asyncio.ensure_future(self._do(place, shared, work, size))
        else:
            self.counts.joined += 1
            records.count_memory("joined")
        task = shared.task
        assert task is not None
        shared.callers += 1
        if heard is not None:
            shared.audience.enter(heard)
        try:
            result: T = await asyncio.shield(task)
            return result
        finally:
            shared.callers -= 1
            if heard is not None:
                shared.audience.leave(heard)
            if not shared.callers and not task.done():
                self._under_way.pop(place, None)  # who comes now must not wait for what is being given up
                task.cancel()

    async def _do(
        self,
        place: tuple[Hashable, Hashable],
        shared: _Work,
        work: Callable[[Audience], Awaitable[T]],
        size: Callable[[T], int],
    ) -> T:
        try:
            result = await work(shared.audience)
        finally:
            if self._under_way.get(place) is shared:
                del self._under_way[place]
            # Of work that failed, it would hold this frame, which holds it, and the picture.
            shared.task = None
        self.keep(place[0], result, size(result))
        return result

    def keep(self, key: Hashable, result: Any, size: int) -> None:
        """Keep a result of that many bytes, in place of what is kept under its key."""
        if size > self.limit:
            return
        if key in self._kept:  # made in two lanes, or grown
            self.bytes -= self._kept.pop(key)[1]
        self._kept[key] = (result, size)
        self.bytes += size
        while self.bytes > self.limit:
            _, (_, freed) = self._kept.popitem(last=False)
            self.bytes -= freed
            self.counts.evicted += 1
