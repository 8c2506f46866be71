"""The gate lets in what fits, keeps a bounded queue, puts interactive calls first, and forgets nobody."""

from __future__ import annotations

import asyncio

import pytest

from florence2_sam2.server.errors import Overloaded
from florence2_sam2.server.segment.admission import Gate


def test_refuses_when_the_queue_is_full_and_recovers() -> None:
    async def scenario() -> None:
        gate, done = Gate(running=1, waiting=1), asyncio.Event()

        async def call() -> None:
            async with gate.enter("interactive"):
                await done.wait()

        tasks = [asyncio.create_task(call()) for _ in range(2)]
        await asyncio.sleep(0)
        assert gate.depth == 1
        with pytest.raises(Overloaded, match="1 calls are waiting already"):
            async with gate.enter("interactive"):
                pass
        done.set()
        await asyncio.gather(*tasks)
        async with gate.enter("bulk"):
            assert gate.depth == 0

    asyncio.run(scenario())


def test_interactive_before_bulk_then_in_order() -> None:
    async def scenario() -> list[str]:
        gate, order = Gate(running=1, waiting=10), []

        async def call(name: str, priority: str) -> None:
            async with gate.enter(priority):
                order.append(name)
                await asyncio.sleep(0)

        names = [
            ("first", "bulk"),
            ("b1", "bulk"),
            ("b2", "bulk"),
            ("i1", "interactive"),
            ("i2", "interactive"),
        ]
        await asyncio.gather(*(call(*name) for name in names))
        return order

    assert asyncio.run(scenario()) == ["first", "i1", "i2", "b1", "b2"]


def test_places_of_cancelled_calls_are_not_lost() -> None:
    async def scenario() -> None:
        gate, done = Gate(running=1, waiting=5), asyncio.Event()

        async def call() -> None:
            async with gate.enter("interactive"):
                await done.wait()

        holder, gone, just_admitted, last = (asyncio.create_task(call()) for _ in range(4))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        holder.cancel()  # its place goes to just_admitted, which is cancelled in the same moment
        await asyncio.sleep(0)
        just_admitted.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        done.set()
        await asyncio.wait_for(last, 1)
        async with asyncio.timeout(1), gate.enter("interactive"):
            pass

    asyncio.run(scenario())
