"""The reference as the speed benches time it: its batched form and its fixed boxes change nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from bench.fullsize.serving import ious
from bench.fullsize.tokenizer import make_tokenizer, unspeakable
from bench.speed import reference_side
from bench.speed.fixed_boxes import PLACES, boxes_for
from bench.speed.pictures import picture
from bench.speed.reference_side import ReferenceSide

pytestmark = pytest.mark.parity

TOKENS = 12
FILES = [picture(number, *size) for number, size in enumerate([(320, 320), (240, 320), (320, 240), (64, 64)])]


@pytest.fixture(scope="module")
def free(small_checkpoints: Path) -> ReferenceSide:
    return ReferenceSide(small_checkpoints / "florence2", small_checkpoints / "sam2", None, threads=1)


@pytest.fixture(scope="module")
def forced(small_checkpoints: Path) -> ReferenceSide:
    return ReferenceSide(small_checkpoints / "florence2", small_checkpoints / "sam2", TOKENS, threads=1)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("settings", [{}, {"area_threshold": 1.0, "confidence_threshold": 0.0}])
def test_pictures_together_are_answered_as_alone(free: ReferenceSide, beams: int, settings: Any) -> None:
    _, together = free.segment_together(FILES, num_beams=beams, **settings)
    compared = 0
    for file, batched in zip(FILES, together, strict=True):
        _, alone = free.segment(file, num_beams=beams, **settings)
        assert batched.caption_ids == alone.caption_ids
        assert batched.grounding_ids == alone.grounding_ids
        assert batched.labels == alone.labels
        assert np.array_equal(batched.boxes, alone.boxes)
        assert np.allclose(batched.scores, alone.scores, atol=1e-4)
        assert batched.filtered == alone.filtered
        assert min(ious(batched.masks, alone.masks), default=1.0) > 0.999
        compared += len(alone.masks)
    assert compared >= 3


def test_texts_have_the_forced_length_and_boxes_are_the_fixed_ones(forced: ReferenceSide) -> None:
    seconds, result = forced.segment(
        FILES[0], num_beams=1, area_threshold=1, confidence_threshold=0, nms_threshold=1
    )
    assert seconds > 0
    assert len(result.caption_ids) == len(result.grounding_ids) == TOKENS
    fixed = boxes_for(result.caption, 320, 320)
    assert len(result.boxes) + len(result.filtered) == len(PLACES)
    assert len(result.boxes) >= 3
    assert set(map(tuple, result.boxes)) <= set(fixed)
    assert {reason for _, reason in result.filtered} <= {"empty_mask"}
    (label,) = {*result.labels, *(label for label, _ in result.filtered)}
    assert label, "each box has the whole text for its label, and it is empty"


def test_a_forced_caption_begins_as_the_free_one(free: ReferenceSide, forced: ReferenceSide) -> None:
    _, long = free.segment(FILES[0], num_beams=1)
    _, short = forced.segment(FILES[0], num_beams=1)
    assert len(long.caption_ids) > TOKENS
    assert short.caption_ids[:-1] == long.caption_ids[: TOKENS - 1]  # the last one is the end


class Timed(ReferenceSide):
    """Takes as long as it is told, by pictures and threads."""

    SECONDS: ClassVar = {(1, 1): 0.5, (1, 4): 0.8, (8, 1): 4.0, (8, 4): 1.5}

    def __init__(self) -> None:
        self._threads = {False: 2, True: 2}

    def segment(self, picture: bytes, **settings: Any) -> tuple[float, Any]:
        return self.SECONDS[1, self._threads[False]], None

    def segment_together(self, pictures: Sequence[bytes], **settings: Any) -> tuple[float, Any]:
        return self.SECONDS[len(pictures), self._threads[True]], None


def test_the_faster_number_of_threads_is_taken_for_one_and_for_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reference_side, "cores", lambda: 4)
    side = Timed()
    assert side.choose_threads([b""]) == {1: 0.5, 4: 0.8}
    assert side.choose_threads([b""] * 8) == {1: 4.0, 4: 1.5}
    assert side._threads == {False: 1, True: 4}


def test_full_size_random_weights_write_words_that_are_read_again_alike() -> None:
    tokenizer = make_tokenizer()
    silent = set(unspeakable(tokenizer))
    words = [number for number in range(len(tokenizer)) if number not in silent]
    assert len(words) > 1000
    text = tokenizer.decode(np.random.default_rng(0).choice(words, 100).tolist())
    assert text.isascii()
    assert text.isprintable()
    assert 80 < len(tokenizer(text, add_special_tokens=False).input_ids) < 160
    assert {0, 1, 2, 3, 50269, 51289} <= silent  # <s> … <unk>, <loc_0>, <image>
