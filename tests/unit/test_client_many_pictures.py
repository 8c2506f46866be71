"""Many pictures through one client: order, concurrency, endless sources, failures that stay their own picture's."""

from __future__ import annotations

import asyncio
import itertools
import pathlib
import threading
import time
from collections.abc import AsyncIterator, Iterator

import grpc
import numpy as np
import pytest
from kserve_peer import ANSWER, Refusal, serving

from florence2_sam2.client import AsyncSegmenter, Done, InvalidRequest, Segmentation, Segmenter
from florence2_sam2.client.many import AHEAD, each, each_awaited

PICTURE = np.zeros((8, 12, 3), np.uint8)


def test_answers_come_in_order_whoever_is_faster() -> None:
    delays = [0.2, 0.0, 0.1, 0.0]
    done = list(each(lambda d: time.sleep(d) or d, delays, 4))
    assert [(d.index, d.picture, d.result) for d in done] == [(i, d, d) for i, d in enumerate(delays)]


def test_no_more_at_once_than_asked_for() -> None:
    now, most, lock = 0, 0, threading.Lock()

    def call(_: int) -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1
        return 1

    assert len(list(each(call, range(12), 3))) == 12
    assert most == 3


def test_an_endless_source_is_read_no_further_than_needed() -> None:
    taken = 0

    def source() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    answers = each(lambda n: n * n, source(), 2)
    assert [done.result for done in itertools.islice(answers, 20)] == [n * n for n in range(1, 21)]
    assert taken <= 20 + 2 * AHEAD + 1
    answers.close()  # type: ignore[attr-defined]
    time.sleep(0.1)
    stopped = taken
    time.sleep(0.1)
    assert taken == stopped


def test_an_answer_does_not_wait_for_the_next_picture() -> None:
    next_one = threading.Event()

    def source() -> Iterator[int]:
        yield 1
        assert next_one.wait(30)
        yield 2

    answers = each(lambda n: n, source(), 4)
    assert next(answers).result == 1
    next_one.set()
    assert next(answers).result == 2
    with pytest.raises(StopIteration):
        next(answers)


def test_a_failing_source_fails_after_the_answers_before() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    answers = each(lambda n: n, source(), 4)
    assert next(answers).result == 1
    with pytest.raises(LookupError, match="no more"):
        next(answers)


def test_a_bug_is_no_pictures_failure() -> None:
    with pytest.raises(ZeroDivisionError):
        list(each(lambda n: 1 // n, [1, 0], 2))


def test_a_place_at_least() -> None:
    with pytest.raises(ValueError, match="concurrency: 0"):
        each(int, [], 0)


@pytest.mark.parametrize("one", ["a.png", b"\x89PNG", PICTURE, pathlib.Path("a.png")])
def test_one_picture_is_not_several(one: object) -> None:
    with Segmenter("localhost:1") as segmenter, pytest.raises(TypeError, match="put it into a list"):
        segmenter.segment_each(one)  # type: ignore[arg-type]


def mixed(_: object) -> Iterator[object]:
    yield PICTURE
    yield "no/such/file.png"
    yield 17
    yield PICTURE.astype(float)
    yield b"refuse this"
    yield PICTURE


def refusing(request: object) -> tuple[dict[str, object], bytes]:
    if b"refuse" in request.raw_input_contents[0]:  # type: ignore[attr-defined]
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "image: no picture")
    return ANSWER, b""


def check_mixed(done: list[Done[object, Segmentation]]) -> None:
    kinds = [type(d.error) for d in done]
    assert kinds == [type(None), FileNotFoundError, TypeError, ValueError, InvalidRequest, type(None)]
    assert [d.index for d in done] == list(range(6))
    assert done[0].unwrap().objects[0].label == done[5].unwrap().objects[0].label == "a ring"
    with pytest.raises(InvalidRequest, match="no picture"):
        done[4].unwrap()


def test_a_failure_is_its_own_pictures() -> None:
    with serving(refusing) as peer, Segmenter(peer.address) as segmenter:
        check_mixed(segmenter.segment_all(mixed(None)))
        with pytest.raises(TypeError, match="no setting 'threshold'"):
            segmenter.segment_each([PICTURE], threshold=1)  # type: ignore[call-arg]


def test_the_same_awaited() -> None:
    async def main() -> None:
        with serving(refusing) as peer:
            async with AsyncSegmenter(peer.address) as segmenter:
                check_mixed(await segmenter.segment_all(mixed(None)))

                async def stream() -> AsyncIterator[object]:
                    for picture in mixed(None):
                        yield picture

                check_mixed([done async for done in segmenter.segment_each(stream(), concurrency=2)])

    asyncio.run(main())


def test_awaited_answers_are_in_order_bounded_and_cancelled() -> None:
    now = most = cancelled = 0

    async def call(delay: float) -> float:
        nonlocal now, most, cancelled
        now += 1
        most = max(most, now)
        try:
            await asyncio.sleep(delay)
        except asyncio.CancelledError:
            cancelled += 1
            raise
        finally:
            now -= 1
        return delay

    async def main() -> None:
        delays = [0.05, 0.0, 0.02, 0.0, 0.01]
        assert [d.result async for d in each_awaited(call, delays, 3)] == delays
        assert most == 3
        answers = each_awaited(call, itertools.chain([0.0], itertools.repeat(30.0)), 3)
        assert (await anext(answers)).result == 0.0
        await asyncio.sleep(0.05)
        await answers.aclose()  # type: ignore[attr-defined]
        await asyncio.sleep(0.05)
        assert (now, cancelled) == (0, 3)

        async def slow() -> AsyncIterator[float]:
            yield 0.0
            await asyncio.sleep(30)

        answers = each_awaited(call, slow(), 3)
        assert (await asyncio.wait_for(anext(answers), 5)).result == 0.0
        await answers.aclose()  # type: ignore[attr-defined]

    asyncio.run(main())
