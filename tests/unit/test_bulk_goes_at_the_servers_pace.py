"""How many calls `bulk` has in flight: within its limits, halved once for each round that finds no room."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence2_sam2.bulk.pace import Pace, Place


@given(most=st.integers(1, 40), events=st.lists(st.booleans(), max_size=200))
def test_it_stays_within_its_limits(most: int, events: list[bool]) -> None:
    async def act() -> None:
        pace = Pace(most)
        for is_answer in events:
            before = pace.width
            async with pace.place() as place:
                assert pace.under_way <= pace.width <= most
            if is_answer:
                await pace.answered()
                assert before <= pace.width <= min(before + 1, most)
            else:
                pace.refused(place)
                assert max(1, before // 2) <= pace.width <= max(1, (before + 1) // 2)

    asyncio.run(act())


def test_a_round_of_answers_is_one_more_place() -> None:
    async def act() -> None:
        pace = Pace(8)
        widths = []
        for _ in range(40):
            widths.append(pace.width)
            await pace.answered()
        assert widths[:8] == [1, 2, 2, 2, 3, 3, 3, 4]
        assert max(widths) == 8

    asyncio.run(act())


def test_a_round_without_room_halves_once() -> None:
    async def act() -> None:
        pace = Pace(16)
        for _ in range(200):
            await pace.answered()
        assert pace.width == 16
        sent = [Place(0)] * 16
        for place in sent:
            pace.refused(place)
        assert pace.width == 8
        pace.refused(Place(1))
        assert pace.width == 4

    asyncio.run(act())


def test_never_more_than_there_are_places() -> None:
    async def act() -> None:
        pace = Pace(4)
        most = 0

        async def call() -> None:
            nonlocal most
            async with pace.place():
                most = max(most, pace.under_way)
                await asyncio.sleep(0.001)
            await pace.answered()

        await asyncio.gather(*(call() for _ in range(60)))
        assert most == 4
        assert pace.under_way == 0

    asyncio.run(act())


def test_one_alone_is_alone_and_others_come_after_it() -> None:
    async def act() -> None:
        pace = Pace(8)
        for _ in range(100):
            await pace.answered()
        seen: list[tuple[str, int]] = []

        async def call(name: str, alone: bool) -> None:
            async with pace.place(alone):
                seen.append((name, pace.under_way))
                await asyncio.sleep(0.005)
                assert not alone or pace.under_way == 1

        first = [asyncio.create_task(call("before", False)) for _ in range(3)]
        await asyncio.sleep(0.001)
        both = [asyncio.create_task(call("alone", True)) for _ in range(2)]
        await asyncio.sleep(0.001)
        last = [asyncio.create_task(call("after", False)) for _ in range(3)]
        await asyncio.gather(*first, *both, *last)
        assert [name for name, _ in seen] == ["before"] * 3 + ["alone"] * 2 + ["after"] * 3
        assert [width for name, width in seen if name == "alone"] == [1, 1]

    asyncio.run(act())


@pytest.mark.parametrize("alone", [True, False])
def test_who_stops_waiting_keeps_nobody_out(alone: bool) -> None:
    async def act() -> None:
        pace = Pace(1)

        async def hold(alone: bool) -> None:
            async with pace.place(alone):
                await asyncio.sleep(0.01)

        first = asyncio.create_task(hold(False))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(hold(alone))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await first
        await within(hold(False))
        await within(hold(True))
        assert pace.under_way == 0

    asyncio.run(act())


async def within(work: Coroutine[Any, Any, None]) -> None:
    async with asyncio.timeout(5):
        await work
