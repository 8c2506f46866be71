"""Equal work is done once, kept within its bytes, and no caller's leaving hurts another."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence2_sam2.server.segment.memory import Audience, Memory

Tell = Callable[[Any], None]


class Worker:
    """Makes "result NAME", once it may; counts how often it was begun and finished."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.finished: list[str] = []
        self.may_end = asyncio.Event()

    def __call__(self, name: str) -> Callable[[Tell], Awaitable[str]]:
        async def work(tell: Tell) -> str:
            self.begun.append(name)
            tell(f"{name} begins")
            await self.may_end.wait()
            tell(f"{name} ends")
            self.finished.append(name)
            return f"result {name}"

        return work


def size_of(result: str) -> int:
    return 10


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 5))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_what_is_kept_is_not_made_again() -> None:
    async def scenario() -> None:
        memory, worker = Memory(100), Worker()
        worker.may_end.set()
        for _ in range(3):
            assert await memory.recall("a", worker("a"), size_of) == "result a"
        assert worker.begun == ["a"]
        assert memory.holds("a")
        assert (memory.counts.made, memory.counts.kept, memory.bytes) == (1, 2, 10)

    run(scenario)


def test_equal_work_under_way_is_done_once() -> None:
    async def scenario() -> None:
        memory, worker = Memory(0), Worker()
        calls = [asyncio.create_task(memory.recall("a", worker("a"), size_of)) for _ in range(5)]
        await settle()
        worker.may_end.set()
        assert await asyncio.gather(*calls) == ["result a"] * 5
        assert worker.begun == ["a"]
        assert (memory.counts.made, memory.counts.joined) == (1, 4)
        assert not memory.holds("a")  # a limit of 0 keeps nothing
        await memory.recall("a", worker("a"), size_of)
        assert worker.begun == ["a", "a"]

    run(scenario)


@pytest.mark.parametrize("leaving", [0, 1])
def test_who_leaves_does_not_end_the_others_work(leaving: int) -> None:
    async def scenario() -> None:
        memory, worker = Memory(100), Worker()
        calls = [asyncio.create_task(memory.recall("a", worker("a"), size_of)) for _ in range(2)]
        await settle()
        calls[leaving].cancel()
        await settle()
        worker.may_end.set()
        assert await calls[1 - leaving] == "result a"
        assert calls[leaving].cancelled()
        assert worker.begun == ["a"]

    run(scenario)


def test_work_that_nobody_waits_for_ends_and_is_begun_anew() -> None:
    async def scenario() -> None:
        memory, worker = Memory(100), Worker()
        first = asyncio.create_task(memory.recall("a", worker("a"), size_of))
        await settle()
        first.cancel()
        second = asyncio.create_task(memory.recall("a", worker("a"), size_of))
        await settle()
        third = asyncio.create_task(memory.recall("a", worker("a"), size_of))
        await settle()
        worker.may_end.set()
        assert await second == await third == "result a"
        assert worker.finished == ["a"]
        assert memory._under_way == {}

    run(scenario)


def test_an_error_goes_to_all_who_wait_and_is_not_kept() -> None:
    async def scenario() -> None:
        memory, worker, failures = Memory(100), Worker(), []

        async def fail(tell: Tell) -> str:
            failures.append(1)
            await worker.may_end.wait()
            raise ValueError("no")

        calls = [asyncio.create_task(memory.recall("a", fail, size_of)) for _ in range(3)]
        await settle()
        worker.may_end.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [str(answer) for answer in answers] == ["no"] * 3
        assert len(failures) == 1
        assert await memory.recall("a", worker("a"), size_of) == "result a"

    run(scenario)


def test_all_who_wait_hear_how_far_it_is() -> None:
    async def scenario() -> None:
        memory, worker = Memory(100), Worker()
        first: list[Any] = []
        second: list[Any] = []
        gone: list[Any] = []
        calls = [asyncio.create_task(memory.recall("a", worker("a"), size_of, heard=first.append))]
        leaver = asyncio.create_task(memory.recall("a", worker("a"), size_of, heard=gone.append))
        await settle()
        calls.append(asyncio.create_task(memory.recall("a", worker("a"), size_of, heard=second.append)))
        calls.append(asyncio.create_task(memory.recall("a", worker("a"), size_of)))
        leaver.cancel()
        await settle()
        worker.may_end.set()
        await asyncio.gather(*calls)
        assert first == ["a begins", "a ends"]
        assert second == ["a ends"]
        assert gone == ["a begins"]
        await memory.recall("a", worker("a"), size_of, heard=second.append)  # it is kept: nothing to tell
        assert second == ["a ends"]

    run(scenario)


def test_work_learns_when_somebody_begins_to_listen() -> None:
    async def scenario() -> None:
        memory, worker = Memory(100), Worker()
        began: list[str] = []

        async def work(audience: Audience) -> str:
            audience.when_heard(lambda: began.append("first"))
            audience.when_heard(lambda: began.append("second"))
            return await worker("a")(audience)

        heard: list[Any] = []
        calls = [asyncio.create_task(memory.recall("a", work, size_of)) for _ in range(2)]
        await settle()
        assert began == []
        calls += [
            asyncio.create_task(memory.recall("a", work, size_of, heard=heard.append)) for _ in range(2)
        ]
        await settle()
        assert sorted(began) == ["first", "second"]
        worker.may_end.set()
        await asyncio.gather(*calls)
        assert heard == ["a ends", "a ends"]
        assert sorted(began) == ["first", "second"]
        await memory.recall("b", work, size_of, heard=heard.append)
        assert len(began) == 4, "who listens from the start was not noticed"

    run(scenario)


def test_the_hurried_do_not_wait_for_the_patient() -> None:
    async def scenario() -> None:
        memory, patient, hurried = Memory(100), Worker(), Worker()
        bulk = asyncio.create_task(memory.recall("a", patient("bulk"), size_of, "bulk"))
        await settle()
        hurried.may_end.set()
        assert (
            await memory.recall("a", hurried("interactive"), size_of, "interactive") == "result interactive"
        )
        assert await memory.recall("a", patient("third"), size_of, "bulk") == "result interactive"
        patient.may_end.set()
        assert await bulk == "result bulk"
        assert memory.bytes == 10

    run(scenario)


@given(
    limit=st.integers(0, 50),
    calls=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 30)), max_size=60),
)
def test_it_keeps_the_latest_within_its_bytes(limit: int, calls: list[tuple[int, int]]) -> None:
    async def scenario() -> None:
        memory = Memory(limit)
        expected: dict[Any, int] = {}  # oldest use first
        sizes: dict[int, int] = {}
        for key, size in calls:
            size = sizes.setdefault(key, size)

            async def work(tell: Tell, key: int = key) -> int:
                return key

            assert await memory.recall(key, work, lambda _, size=size: size) == key
            if key in expected or size <= limit:
                expected.pop(key, None)
                expected[key] = size
            while sum(expected.values()) > limit:
                del expected[next(iter(expected))]
            assert list(memory._kept) == list(expected)
            assert memory.bytes == sum(expected.values()) <= limit

    run(scenario)


class Large:
    """What nobody wants to keep by mistake."""


def test_work_that_fails_holds_nothing_once_its_error_is_dealt_with() -> None:
    """Not even until garbage is collected, which may be long after a picture of a hundred megabytes."""

    async def fail(memory: Memory) -> weakref.ref[Large]:
        large = Large()

        async def work(_: Tell) -> None:
            raise ValueError(large)

        try:
            await memory.recall("key", work, lambda _: 1)
        except ValueError as error:
            error.__traceback__ = None
        return weakref.ref(large)

    async def gone() -> bool:
        reference = await fail(Memory(1000))
        await asyncio.sleep(0)  # the loop drops what it has called
        return reference() is None

    gc.disable()
    try:
        assert asyncio.run(gone())
    finally:
        gc.enable()
