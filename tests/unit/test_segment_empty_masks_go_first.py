"""Masks without a pixel at the picture's own size are dropped as such, before the filters that come after SAM2."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from florence2_sam2.postprocess import upsample_mask
from florence2_sam2.server.segment.candidates import Candidate, drop_empty, drop_uncertain, surely_shown
from florence2_sam2.server.segment.shapes import Shape

sides = st.integers(1, 60)


@st.composite
def specks(draw: st.DrawFn) -> np.ndarray:
    """Logits [8,8], mostly negative."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    return random.normal(draw(st.sampled_from([-2.0, -1.0, -0.3])), 1, (8, 8)).astype(np.float32)


@settings(max_examples=400)
@given(specks(), sides, sides)
def test_what_is_surely_shown_has_a_pixel(logits: np.ndarray, width: int, height: int) -> None:
    if surely_shown(logits, width, height):
        assert upsample_mask(logits, width, height).area > 0


def test_most_masks_need_not_be_made_to_know() -> None:
    logits = np.full((64, 64), -1, np.float32)
    logits[10:12, 30:32] = 0.01
    assert surely_shown(logits, 64, 64)
    assert not surely_shown(logits, 64, 63)  # some rows of the logits are between those of the picture
    logits[10, 30] = 0
    assert not surely_shown(logits, 640, 640)


def dropped(logits: np.ndarray, score: float) -> tuple[Any, int]:
    """The reason, and how often the mask was made for it."""
    candidate = Candidate("a cat", (0, 0, 10, 10), score=score, logits=logits)
    made = []

    def make(one: Candidate) -> None:
        assert one.logits is not None
        one.shape = Shape(upsample_mask(one.logits, 100, 100))
        made.append(one)

    drop_empty([candidate], 100, 100, make)
    drop_uncertain([candidate], 0.5)
    return candidate.reason, len(made)


def test_a_speck_that_vanishes_is_empty_whatever_its_score() -> None:
    speck = np.full((64, 64), -9, np.float32)
    speck[10, 10] = 0.01
    assert upsample_mask(speck, 100, 100).area == 0
    assert dropped(speck, 0.9) == ("empty_mask", 1)
    assert dropped(speck, 0.1) == ("empty_mask", 1)


def test_a_speck_that_stays_is_judged_by_its_score() -> None:
    speck = np.full((64, 64), -0.01, np.float32)
    speck[10, 10] = 9
    assert dropped(speck, 0.9) == (None, 1)
    assert dropped(speck, 0.1) == ("confidence", 1)
