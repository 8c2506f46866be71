"""The gate lets in what fits, keeps a bounded queue, puts interactive calls first, and forgets nobody."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
        assert (gate.inside, gate.depth) == (1, 1)
        with pytest.raises(Overloaded, match="1 calls are waiting already"):
            async with gate.enter("interactive"):
                pass
        done.set()
        await asyncio.gather(*tasks)
        assert gate.inside == 0
        async with gate.enter("bulk"):
            assert (gate.inside, gate.depth) == (1, 0)

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


def test_a_call_that_waits_too_long_is_refused() -> None:
    async def scenario() -> None:
        gate = Gate(running=1, waiting=5, seconds=0.05)
        async with gate.enter("interactive"):
            began = time.monotonic()
            with pytest.raises(Overloaded, match=r"no place was free within 0\.05 s"):
                async with gate.enter("interactive"):
                    pass
            assert 0.04 < time.monotonic() - began < 1
            assert gate.depth == 0
        assert gate.refused == {"queue timeout": 1}
        async with asyncio.timeout(1), gate.enter("interactive"):
            pass

    asyncio.run(scenario())


@pytest.mark.parametrize(("running", "for_bulk"), [(1, 1), (2, 1), (4, 3), (8, 6), (16, 12)])
def test_bulk_calls_leave_places_to_interactive_ones(running: int, for_bulk: int) -> None:
    async def scenario() -> None:
        gate, done = Gate(running, waiting=100), asyncio.Event()
        entered: list[str] = []

        async def call(priority: str) -> None:
            async with gate.enter(priority):
                entered.append(priority)
                await done.wait()

        tasks = [asyncio.create_task(call("bulk")) for _ in range(running + 3)]
        await asyncio.sleep(0.01)
        assert entered == ["bulk"] * for_bulk
        tasks += [asyncio.create_task(call("interactive")) for _ in range(running)]
        await asyncio.sleep(0.01)
        assert entered.count("interactive") == running - for_bulk
        assert gate.depths() == {"interactive": for_bulk, "bulk": running + 3 - for_bulk}
        done.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 1)
        assert gate.depth == 0

    asyncio.run(scenario())


def test_bulk_calls_leave_room_in_the_queue() -> None:
    async def scenario() -> None:
        gate, done = Gate(running=1, waiting=8), asyncio.Event()

        async def call(priority: str) -> None:
            async with gate.enter(priority):
                await done.wait()

        tasks = [asyncio.create_task(call("bulk")) for _ in range(7)]  # one is in
        await asyncio.sleep(0.01)
        assert gate.depths() == {"interactive": 0, "bulk": 6}
        with pytest.raises(Overloaded, match="6 calls are waiting already"):
            gate.check("bulk")
        tasks += [asyncio.create_task(call("interactive")) for _ in range(2)]
        await asyncio.sleep(0.01)
        with pytest.raises(Overloaded, match="8 calls are waiting already"):
            gate.check("interactive")
        done.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 1)

    asyncio.run(scenario())


def test_interactive_calls_may_take_every_place() -> None:
    async def scenario() -> None:
        gate, done, entered = Gate(running=4, waiting=0), asyncio.Event(), 0

        async def call() -> None:
            nonlocal entered
            async with gate.enter("interactive"):
                entered += 1
                await done.wait()

        tasks = [asyncio.create_task(call()) for _ in range(4)]
        await asyncio.sleep(0.01)
        assert entered == 4
        done.set()
        await asyncio.gather(*tasks)

    asyncio.run(scenario())


@settings(max_examples=200, deadline=None)
@given(
    running=st.integers(1, 5),
    waiting=st.integers(0, 6),
    steps=st.lists(
        st.tuples(st.sampled_from(["bulk", "interactive", "end", "cancel"]), st.integers(0, 9)), max_size=60
    ),
)
def test_whatever_comes_and_goes_no_place_is_lost(
    running: int, waiting: int, steps: list[tuple[str, int]]
) -> None:
    async def scenario() -> None:
        gate = Gate(running, waiting)
        inside: set[int] = set()
        ends: dict[int, asyncio.Event] = {}
        tasks: dict[int, asyncio.Task[None]] = {}

        async def call(number: int, priority: str) -> None:
            with contextlib.suppress(Overloaded):
                async with gate.enter(priority):
                    inside.add(number)
                    try:
                        await ends[number].wait()
                    finally:
                        inside.discard(number)

        for number, (what, which) in enumerate(steps):
            alive = sorted(number for number, task in tasks.items() if not task.done())
            if what in ("bulk", "interactive"):
                ends[number] = asyncio.Event()
                tasks[number] = asyncio.create_task(call(number, what))
            elif alive and what == "end":
                ends[alive[which % len(alive)]].set()
            elif alive:
                tasks[alive[which % len(alive)]].cancel()
            if which % 2:
                for _ in range(4):
                    await asyncio.sleep(0)
            assert len(inside) <= running
            assert gate.depth <= waiting
        for end in ends.values():
            end.set()
        await asyncio.wait_for(asyncio.gather(*tasks.values(), return_exceptions=True), 2)
        assert not inside
        assert gate.depth == 0
        holders = [asyncio.create_task(_hold(gate)) for _ in range(running)]
        await asyncio.wait_for(asyncio.gather(*holders), 1)

    asyncio.run(scenario())


async def _hold(gate: Gate) -> None:
    async with gate.enter("interactive"):
        await asyncio.sleep(0.001)
