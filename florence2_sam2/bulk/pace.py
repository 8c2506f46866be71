"""How many calls are in flight: one more for each round that is answered, half of them when servers have no room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A call's. `round`: in which one it went off."""

    round: int


class Pace:
    """Places for calls, from 1 up to `most` of them. Belongs to one event loop.

    Additive increase, multiplicative decrease, as TCP does it: callers who share servers come to equal parts, and a
    server that is away or full is soon asked by few.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._width = 1.0
        self._round = 0
        self._under_way = 0
        self._alone = 0
        self._changed = asyncio.Condition()

    @property
    def width(self) -> int:
        """Places there are now."""
        return int(self._width)

    @property
    def under_way(self) -> int:
        """Places that are taken."""
        return self._under_way

    @asynccontextmanager
    async def place(self, alone: bool = False) -> AsyncIterator[Place]:
        """Wait for a place and hold it; `alone`: with no other call in flight."""
        async with self._changed:
            if alone:
                self._alone += 1
                try:
                    await self._changed.wait_for(lambda: not self._under_way)
                except BaseException:
                    self._alone -= 1
                    self._changed.notify_all()
                    raise
            else:
                await self._changed.wait_for(lambda: not self._alone and self._under_way < self.width)
            self._under_way += 1
            held = Place(self._round)
        try:
            yield held
        finally:
            async with self._changed:
                self._under_way -= 1
                self._alone -= alone
                self._changed.notify_all()

    async def answered(self) -> None:
        """A call has been answered."""
        async with self._changed:
            self._width = min(self._width + 1 / self._width, float(self._most))
            self._changed.notify_all()

    def refused(self, place: Place) -> None:
        """A call has found no room. Those that went off with it, and are refused as well, halve no more."""
        if place.round == self._round:
            self._width = max(self._width / 2, 1.0)
            self._round += 1
