"""Suppression does what the textbook says, and what torchvision does."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from florence2_sam2.postprocess import (
    CroppedMask,
    Suppression,
    box_iou_matrix,
    nms,
    nms_containment,
    nms_masks,
)

TORCHVISION = Path(__file__).parents[1] / "data" / "torchvision_nms.json"

Box = tuple[int, int, int, int]


def exact_iou(a: Box, b: Box) -> Fraction:
    def area(x1: int, y1: int, x2: int, y2: int) -> int:
        return max(x2 - x1, 0) * max(y2 - y1, 0)

    both = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    if not area(*a) or not area(*b):
        both = 0
    union = area(*a) + area(*b) - both
    return Fraction(both, union) if union else Fraction(0)


def definition(overlap: list[list[Fraction]], scores: list[float], threshold: Fraction) -> Suppression:
    """Every object against every kept one before it, with exact numbers."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    kept: list[int] = []
    suppressed_by: dict[int, int] = {}
    for index in order:
        suppressors = [other for other in kept if overlap[other][index] > threshold]
        if suppressors and threshold < 1:
            suppressed_by[index] = suppressors[0]
        else:
            kept.append(index)
    return Suppression(sorted(kept), suppressed_by)


coordinates = st.integers(0, 20)
boxes = st.lists(st.tuples(coordinates, coordinates, coordinates, coordinates), max_size=14)
tenths = st.integers(0, 10)


def check_boxes(boxes: list[Box], scores: list[float], tenth: int) -> None:
    overlap = [[exact_iou(a, b) for b in boxes] for a in boxes]
    expected = definition(overlap, scores, Fraction(tenth, 10))
    assert nms(boxes, scores, tenth / 10) == expected
    # As the tensor carries it.
    result = nms(
        np.array(boxes, dtype=np.float32).reshape(-1, 4), np.array(scores), float(np.float32(tenth / 10))
    )
    assert result == expected
    assert sorted([*result.kept, *result.suppressed_by]) == list(range(len(boxes)))
    again = nms([boxes[i] for i in result.kept], [scores[i] for i in result.kept], tenth / 10)
    assert again.kept == list(range(len(result.kept))), "suppressing twice is suppressing once"
    if tenth < 10:
        assert all(overlap[a][b] <= Fraction(tenth, 10) for a in result.kept for b in result.kept if a != b)


@st.composite
def scored_boxes(draw: st.DrawFn) -> tuple[list[Box], list[float]]:
    drawn = draw(boxes)
    score = st.sampled_from([0.1, 0.5, 0.5, 0.9])
    return drawn, draw(st.lists(score, min_size=len(drawn), max_size=len(drawn)))


@settings(max_examples=150)
@given(scored_boxes(), tenths)
def test_boxes(scored: tuple[list[Box], list[float]], tenth: int) -> None:
    check_boxes(*scored, tenth)


@pytest.mark.long
@settings(max_examples=3000)
@given(scored_boxes(), tenths)
def test_boxes_long(scored: tuple[list[Box], list[float]], tenth: int) -> None:
    check_boxes(*scored, tenth)


def check_order(boxes: list[Box], scores: list[float], shuffle: list[int]) -> None:
    straight = nms(boxes, scores, 0.3)
    shuffled = nms([boxes[i] for i in shuffle], [scores[i] for i in shuffle], 0.3)
    assert sorted(shuffle[i] for i in shuffled.kept) == straight.kept
    assert {shuffle[i]: shuffle[j] for i, j in shuffled.suppressed_by.items()} == straight.suppressed_by


@st.composite
def shuffled_boxes(draw: st.DrawFn) -> tuple[list[Box], list[float], list[int]]:
    drawn = draw(boxes)
    scores = draw(st.permutations([index / 100 for index in range(len(drawn))]))
    return drawn, scores, draw(st.permutations(range(len(drawn))))


@settings(max_examples=150)
@given(shuffled_boxes())
def test_the_order_of_the_input_does_not_matter_without_ties(
    drawn: tuple[list[Box], list[float], list[int]],
) -> None:
    check_order(*drawn)


@pytest.mark.long
@settings(max_examples=2000)
@given(shuffled_boxes())
def test_the_order_of_the_input_does_not_matter_without_ties_long(
    drawn: tuple[list[Box], list[float], list[int]],
) -> None:
    check_order(*drawn)


def check_masks(masks: NDArray[np.bool_], scores: list[float], tenth: int) -> None:
    sets = [set(np.flatnonzero(mask).tolist()) for mask in masks]
    iou = [[Fraction(len(a & b), len(a | b)) if a and b else Fraction(0) for b in sets] for a in sets]
    inside = [
        [Fraction(len(a & b), min(len(a), len(b))) if a and b else Fraction(0) for b in sets] for a in sets
    ]
    crops = [CroppedMask.from_full(mask) for mask in masks]
    threshold = float(np.float32(tenth / 10))
    assert nms_masks(crops, scores, threshold) == definition(iou, scores, Fraction(tenth, 10))
    assert nms_containment(crops, scores, threshold) == definition(inside, scores, Fraction(tenth, 10))


@st.composite
def scored_masks(draw: st.DrawFn) -> tuple[NDArray[np.bool_], list[float]]:
    masks = draw(arrays(np.bool_, st.tuples(st.integers(0, 7), st.integers(1, 4), st.integers(1, 5))))
    score = st.sampled_from([0.1, 0.5, 0.9])
    return masks, draw(st.lists(score, min_size=len(masks), max_size=len(masks)))


@settings(max_examples=150)
@given(scored_masks(), tenths)
def test_masks(scored: tuple[NDArray[np.bool_], list[float]], tenth: int) -> None:
    check_masks(*scored, tenth)


@pytest.mark.long
@settings(max_examples=2000)
@given(scored_masks(), tenths)
def test_masks_long(scored: tuple[NDArray[np.bool_], list[float]], tenth: int) -> None:
    check_masks(*scored, tenth)


CASES = {
    "nothing": ([], [], 0.5, Suppression([])),
    "one": ([(0, 0, 4, 4)], [0.2], 0.5, Suppression([0])),
    "twins: the better stays": ([(0, 0, 4, 4), (0, 0, 4, 4)], [0.2, 0.3], 0.5, Suppression([1], {0: 1})),
    "twins of equal score: the first stays": ([(0, 0, 4, 4)] * 2, [0.3, 0.3], 0.5, Suppression([0], {1: 0})),
    "equal to the threshold stays": ([(0, 0, 4, 4), (0, 0, 4, 2)], [0.9, 0.8], 0.5, Suppression([0, 1])),
    "above the threshold goes": ([(0, 0, 4, 4), (0, 0, 4, 3)], [0.9, 0.8], 0.5, Suppression([0], {1: 0})),
    "0 suppresses any overlap": ([(0, 0, 9, 9), (8, 8, 20, 20)], [0.9, 0.8], 0.0, Suppression([0], {1: 0})),
    "0 keeps neighbours": ([(0, 0, 9, 9), (9, 0, 20, 9)], [0.9, 0.8], 0.0, Suppression([0, 1])),
    "1 is off": ([(0, 0, 4, 4)] * 3, [0.3, 0.4, 0.5], 1.0, Suppression([0, 1, 2])),
    "no area, no overlap": ([(3, 3, 3, 3)] * 2, [0.3, 0.4], 0.0, Suppression([0, 1])),
    "the suppressed suppress nothing": (
        [(0, 0, 10, 10), (0, 4, 10, 14), (0, 8, 10, 18)],
        [0.9, 0.8, 0.7],
        0.4,
        Suppression([0, 2], {1: 0}),
    ),
}


@pytest.mark.parametrize(("boxes", "scores", "threshold", "expected"), CASES.values(), ids=CASES.keys())
def test_named_cases(boxes: list[Box], scores: list[float], threshold: float, expected: Suppression) -> None:
    assert nms(boxes, scores, threshold) == expected


def test_a_mask_inside_another_is_seen_by_containment_only() -> None:
    car = np.zeros((20, 30), dtype=np.bool_)
    car[5:15, 2:28] = True
    wheel = np.zeros_like(car)
    wheel[11:15, 5:9] = True
    crops = [CroppedMask.from_full(car), CroppedMask.from_full(wheel)]
    assert nms_masks(crops, [0.9, 0.8], 0.5) == Suppression([0, 1])
    assert nms_containment(crops, [0.9, 0.8], 0.5) == Suppression([0], {1: 0})
    assert nms_containment(crops, [0.8, 0.9], 0.5) == Suppression([1], {0: 1})


def test_as_many_scores_as_objects() -> None:
    with pytest.raises(ValueError, match="scores"):
        nms([(0, 0, 1, 1)], [0.1, 0.2], 0.5)
    with pytest.raises(ValueError, match="scores"):
        nms_masks([], [0.1], 1.0)


@pytest.mark.parametrize("case", json.loads(TORCHVISION.read_text())["cases"], ids=lambda case: case["name"])
def test_the_same_boxes_stay_as_in_torchvision(case: dict) -> None:
    result = nms(case["boxes"], case["scores"], case["threshold"])
    assert result.kept == sorted(case["kept"])


@settings(max_examples=200)
@given(boxes, boxes)
def test_iou_is_exact_for_whole_pixels(a: list[Box], b: list[Box]) -> None:
    matrix = box_iou_matrix(a, b)
    assert matrix.shape == (len(a), len(b))
    assert matrix.tolist() == [[float(exact_iou(first, second)) for second in b] for first in a]
