"""Bulk calls give way to interactive ones: not only at the gate, but before each of a call's steps.

What runs on a machine's cores slows down whatever runs beside it, so a place in the queue is not enough: with six bulk
calls at work, an interactive one would wait for their encoders and share their cores. While one is in, bulk calls
therefore stop before their next step, all but the oldest, which goes on so that bulk work never stands still.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from florence2_sam2.server.segment.models import (
    Features,
    Floats,
    Generated,
    GenerationOptions,
    Models,
    Pixels,
    Tell,
)

T = TypeVar("T")


class Turns:
    """Who is in, and which bulk calls may go on. Belongs to one event loop.

    Args:
        beside: bulk calls that go on while an interactive one is in.
        at_once: bulk calls' runs of one encoder or of the mask decoder under way at once: who comes in the meantime
            stands behind so many runs, not behind one of each bulk call. More than 1 is for GPUs, where they become
            a batch.
    """

    class Call:
        """One call that has been let in."""

        def __init__(self, turns: Turns, priority: str) -> None:
            self._turns, self.priority = turns, priority

        async def turn(self) -> None:
            """Until this call may begin its next step."""
            await self._turns._turn(self)

        def models(self, models: Models) -> Models:
            """`models`, asked only when it is this call's turn."""
            return models if self.priority != "bulk" else _InTurns(models, self)

    def __init__(self, beside: int = 1, at_once: int = 1) -> None:
        self._beside, self._at_once = beside, at_once
        self._interactive = 0
        self._bulk: list[Turns.Call] = []  # oldest first
        self._stopped: list[tuple[Turns.Call, asyncio.Future[None]]] = []
        self._runs: dict[str, asyncio.Semaphore] = {}

    @property
    def stopped(self) -> int:
        """Bulk calls that wait for their turn now."""
        return sum(not future.done() for _, future in self._stopped)

    def enter(self, priority: str) -> Turns.Call:
        call = Turns.Call(self, priority)
        if priority == "bulk":
            self._bulk.append(call)
        else:
            self._interactive += 1
        return call

    def leave(self, call: Turns.Call) -> None:
        if call.priority == "bulk":
            self._bulk.remove(call)
        else:
            self._interactive -= 1
        still = []
        for stopped, future in self._stopped:
            if self._may_go_on(stopped):
                if not future.done():
                    future.set_result(None)
            else:
                still.append((stopped, future))
        self._stopped = still

    async def run(self, model: str, call: Turns.Call, work: Callable[[], Awaitable[T]]) -> T:
        """One run of a model that takes its requests one after the other, for a bulk call."""
        if model not in self._runs:
            self._runs[model] = asyncio.Semaphore(self._at_once)
        while True:
            await self._turn(call)
            async with self._runs[model]:
                # Whoever has to stop after all must not keep the oldest call out meanwhile.
                if self._may_go_on(call):
                    return await work()

    async def _turn(self, call: Turns.Call) -> None:
        while not self._may_go_on(call):
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._stopped.append((call, future))
            await future

    def _may_go_on(self, call: Turns.Call) -> bool:
        # Work that outlives its call, since another one has joined it, is in nobody's way for long.
        waits = call.priority == "bulk" and self._interactive and call in self._bulk
        return not waits or self._bulk.index(call) < self._beside


class _InTurns:
    """Models as a bulk call asks them."""

    def __init__(self, models: Models, call: Turns.Call) -> None:
        self._models, self._call = models, call
        self._turns = call._turns
        self.identities, self.input_size = models.identities, models.input_size

    async def image_features(self, picture: Pixels) -> Features:
        return await self._turns.run("image", self._call, lambda: self._models.image_features(picture))

    async def generate(
        self,
        features: Features,
        size: tuple[int, int],
        task: str,
        text: str,
        options: GenerationOptions,
        tell: Tell,
    ) -> Generated:
        await self._call.turn()  # many decode at once: florence2 has priorities of its own
        return await self._models.generate(features, size, task, text, options, tell)

    async def sam2_pixels(self, picture: Pixels) -> Pixels:
        return await self._models.sam2_pixels(picture)

    async def sam2_features(self, pixels: Pixels) -> Features:
        return await self._turns.run("sam2", self._call, lambda: self._models.sam2_features(pixels))

    async def masks(self, features: Features, boxes: Floats, size: tuple[int, int]) -> tuple[Floats, Floats]:
        return await self._turns.run("masks", self._call, lambda: self._models.masks(features, boxes, size))
