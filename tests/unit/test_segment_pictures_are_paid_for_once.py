"""A picture asked about again costs only what is new about the question."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from florence2_sam2.server.segment.memory import Memory
from florence2_sam2.server.segment.models import Picture, Region, Run
from florence2_sam2.server.segment.outcome import Outcome
from florence2_sam2.server.segment.pipeline import Pipeline
from florence2_sam2.server.segment.request import parse_request
from florence2_sam2.server.settings import Settings
from tests.unit.test_segment_pipeline_filters import PICTURE, DrawnModels, in_thread

REGIONS = [Region("cat", (10, 10, 60, 60)), Region("dog", (70, 20, 130, 70))]  # 0.125 and 0.15 of the picture
FIRST = [
    "image_features",
    "<MORE_DETAILED_CAPTION>",
    "<CAPTION_TO_PHRASE_GROUNDING>",
    "sam2_features",
    "masks 2",
]
PLENTY = 10**8


class Asked:
    """One server's pipeline, and what its models were asked."""

    def __init__(self, limit: int = PLENTY, overlap: bool = False, run: Run = in_thread) -> None:
        self.models = DrawnModels(REGIONS)
        self.memory = Memory(limit)
        self.pipeline = Pipeline(self.models, run, overlap, self.memory)

    async def call(self, picture: Picture = PICTURE, **inputs: Any) -> Outcome:
        request = parse_request({"image": b"x", **inputs}, Settings())
        return await self.pipeline(request, lambda: picture, lambda: False)

    def __call__(self, picture: Picture = PICTURE, **inputs: Any) -> tuple[list[str], Outcome]:
        """What one call asked, and its outcome."""
        self.models.calls.clear()
        outcome = asyncio.run(self.call(picture, **inputs))
        return list(self.models.calls), outcome


async def on_the_loop(function: Callable[..., Any], *arguments: Any) -> Any:
    """No thread: calls begun together stay in step, whatever the machine's scheduler does."""
    return function(*arguments)


def number(value: float) -> np.ndarray:
    return np.array([value], np.float32)


def found(outcome: Outcome) -> list[tuple[str, tuple[float, ...], float | None, str | None]]:
    return [(c.label, c.box, c.score, c.reason) for c in outcome.candidates]


def test_the_same_again_asks_nothing_and_answers_the_same() -> None:
    ask = Asked()
    calls, first = ask()
    assert calls == FIRST
    calls, second = ask()
    assert calls == []
    assert found(second) == found(first)
    assert second.caption == first.caption
    assert second.warnings == first.warnings
    for one, other in zip(second.kept, first.kept, strict=True):
        np.testing.assert_array_equal(one.mask.full(), other.mask.full())


def test_other_thresholds_ask_nothing_unless_other_boxes_reach_sam2() -> None:
    ask = Asked()
    ask()
    for inputs in (
        {"confidence_threshold": number(0.95)},
        {"nms_threshold": number(0)},
        {"polygon_precision": number(0)},
        {"options": b'{"formats": ["rle"], "nms": "mask", "priority": "bulk"}'},
    ):
        assert ask(**inputs)[0] == []
    assert ask(confidence_threshold=number(0.95))[1].kept == []
    # One box less is another question to the mask decoder, but the picture's features are there.
    calls, outcome = ask(area_threshold=number(0.13))
    assert calls == ["masks 1"]
    assert [c.reason for c in outcome.candidates] == [None, "area"]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"caption": b"Two cats."}, ["<CAPTION_TO_PHRASE_GROUNDING>"]),
        ({"options": b'{"task": "detection"}'}, ["<OD>"]),
        ({"options": b'{"phrases": ["a cat"]}'}, ["<CAPTION_TO_PHRASE_GROUNDING>"]),
        ({"options": b'{"num_beams": 3}'}, ["<MORE_DETAILED_CAPTION>", "<CAPTION_TO_PHRASE_GROUNDING>"]),
        ({"options": b'{"max_new_tokens": 9}'}, ["<MORE_DETAILED_CAPTION>", "<CAPTION_TO_PHRASE_GROUNDING>"]),
        ({"options": b'{"boxes": [[1, 1, 30, 30]]}'}, ["masks 1"]),
    ],
)
def test_another_question_pays_for_itself_only(inputs: dict[str, Any], expected: list[str]) -> None:
    ask = Asked()
    ask()
    assert ask(**inputs)[0] == expected
    assert ask(**inputs)[0] == []


def test_another_picture_shares_nothing() -> None:
    ask = Asked()
    ask()
    other = Picture(b"other", PICTURE.size, PICTURE.pixels)
    assert ask(other)[0] == FIRST


def test_a_picture_decoded_at_a_reduced_size_is_another_one() -> None:
    ask = Asked()
    ask()
    reduced = Picture.of(PICTURE.pixels[::2, ::2], b"x", PICTURE.size)
    assert ask(reduced)[0] == FIRST
    assert ask(PICTURE)[0] == []


def test_windows_of_a_picture_are_pictures_of_their_own() -> None:
    whole = Picture.of(np.arange(300, dtype=np.uint8).reshape(10, 10, 3), b"x")
    left, right = whole.window((0, 0, 5, 10)), whole.window((5, 0, 10, 10))
    assert len({whole.digest, left.digest, right.digest}) == 3
    assert left.digest == whole.window((0, 0, 5, 10)).digest
    np.testing.assert_array_equal(right.pixels, whole.pixels[:, 5:])
    ask = Asked()
    assert ask(options=b'{"tiles": 2}')[0].count("image_features") == 5
    assert ask(options=b'{"tiles": 2}')[0] == []


@pytest.mark.parametrize("overlap", [False, True])
def test_without_memory_every_stage_runs_once_a_call(overlap: bool) -> None:
    ask = Asked(0, overlap)
    for _ in range(2):
        assert sorted(ask()[0]) == sorted(FIRST)


@pytest.mark.parametrize("limit", [0, PLENTY])
def test_equal_calls_at_once_are_worked_on_once(limit: int) -> None:
    ask = Asked(limit, run=on_the_loop)

    async def all_three() -> list[Outcome]:
        return list(await asyncio.gather(ask.call(), ask.call(), ask.call()))

    outcomes = asyncio.run(all_three())
    assert sorted(ask.models.calls) == sorted(FIRST)
    assert found(outcomes[0]) == found(outcomes[1]) == found(outcomes[2])


@pytest.mark.parametrize("limit", [0, PLENTY])
def test_who_comes_while_a_caption_is_written_asks_for_no_features(limit: int) -> None:
    ask = Asked(limit)
    writing, may_end = asyncio.Event(), asyncio.Event()
    write = ask.models.generate

    async def slowly(features, size, task, text, options, tell):
        writing.set()
        await may_end.wait()
        return await write(features, size, task, text, options, tell)

    ask.models.generate = slowly  # type: ignore[method-assign]

    async def one_after_the_other() -> None:
        first = asyncio.create_task(ask.call())
        await writing.wait()
        second = asyncio.create_task(ask.call())
        while not ask.memory.counts.joined:
            await asyncio.sleep(0.001)
        may_end.set()
        await asyncio.gather(first, second)

    asyncio.run(asyncio.wait_for(one_after_the_other(), 10))
    assert ask.models.calls.count("image_features") == 1


def test_what_is_kept_is_counted_and_cannot_be_changed() -> None:
    ask = Asked()
    ask()
    assert 2 * 64 * 64 * 4 < ask.memory.bytes < 50_000
    kept = [value for value, _ in ask.memory._kept.values()]
    arrays = [array for value in kept if isinstance(value, tuple) for array in value]
    assert len(arrays) == 2
    assert not any(array.flags.writeable for array in arrays)
