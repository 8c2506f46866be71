"""What equals a threshold stays, though the threshold travelled as FP32; the boxes' plain arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence2_sam2 import postprocess
from florence2_sam2.postprocess import (
    area_filter,
    box_area_ratios,
    box_iou_matrix,
    box_xyxy_to_xywh,
    clip_boxes,
    confidence_filter,
    normalize_boxes,
)


@pytest.mark.parametrize("hundredth", range(100))
@pytest.mark.parametrize("size", [(1000, 1000), (640, 500), (7, 100)])
def test_a_box_of_just_the_allowed_area_stays(hundredth: int, size: tuple[int, int]) -> None:
    width, height = size
    for threshold in (hundredth / 100, float(np.float32(hundredth / 100)), np.float32(hundredth / 100)):
        rows = height * hundredth / 100
        equal = np.array([[0, 0, width, rows]], dtype=np.float32)
        larger = equal + np.float32([0, 0, 0, 0.25])
        ratios = box_area_ratios(np.concatenate([equal, larger]), width, height)
        assert area_filter(ratios, threshold).tolist() == [True, False]


@pytest.mark.parametrize("hundredth", range(1, 101))
def test_a_score_equal_to_the_threshold_stays(hundredth: int) -> None:
    score = np.float32(hundredth / 100)
    below = np.nextafter(score, np.float32(0))
    for threshold in (hundredth / 100, float(score), score):
        assert confidence_filter(np.array([score, below]), threshold).tolist() == [True, False]
        assert confidence_filter([float(score), float(below)], threshold).tolist() == [True, False]


def test_ratios_that_were_rounded_to_fp32_are_compared_as_such() -> None:
    for hundredth in range(1, 100):
        ratios = np.array([hundredth / 100], dtype=np.float32)
        assert area_filter(ratios, hundredth / 100).all()


def test_the_ends_of_the_range_are_off() -> None:
    assert area_filter([0.2, 1.0, 7.0], 1.0).tolist() == [True, True, True]
    assert area_filter([0.0, 1e-9], 0.0).tolist() == [True, False]
    assert confidence_filter([0.0, -1.0, float("nan")], 0.0).tolist() == [True, True, True]
    assert confidence_filter([1.0, 0.999], 1.0).tolist() == [True, False]


def test_nothing_in_nothing_out() -> None:
    assert area_filter([], 0.3).shape == (0,)
    assert confidence_filter([], 0.5).shape == (0,)
    assert box_area_ratios([], 10, 10).shape == (0,)
    assert clip_boxes([], 10, 10).shape == (0, 4)
    assert box_xyxy_to_xywh(
        [],
    ).shape == (0, 4)
    assert normalize_boxes(np.zeros((0, 4), dtype=np.float32), 10, 10).shape == (0, 4)
    assert box_iou_matrix([], [(0, 0, 1, 1)]).shape == (0, 1)


@pytest.mark.parametrize(
    ("box", "ratio"),
    [
        ((0, 0, 1280, 853), 1.0),
        ((0, 0, 640, 853), 0.5),
        ((5, 5, 5, 80), 0.0),
        ((80, 5, 5, 80), 0.0),
        ((80, 80, 5, 5), 0.0),
    ],
    ids=["whole picture", "half", "a line", "corners swapped in x", "corners swapped in both"],
)
def test_area_ratios(box: tuple[int, int, int, int], ratio: float) -> None:
    assert box_area_ratios([box], 1280, 853).tolist() == [ratio]


def test_boxes_are_clipped_to_the_picture() -> None:
    clipped = clip_boxes([(-5, -7, 30, 40), (3, 4, 5, 6), (25, 3, 40, 9)], 20, 10)
    assert clipped.tolist() == [[0, 0, 20, 10], [3, 4, 5, 6], [20, 3, 20, 9]]


def test_forms_of_boxes() -> None:
    assert box_xyxy_to_xywh([(1, 2, 4, 8)]).tolist() == [[1, 2, 3, 6]]
    assert normalize_boxes([(1, 2, 4, 8)], 4, 16).tolist() == [[0.25, 0.125, 1, 0.5]]


def test_other_shapes_are_no_boxes() -> None:
    with pytest.raises(ValueError, match="boxes"):
        clip_boxes([1.0, 2.0, 3.0, 4.0], 10, 10)


@settings(max_examples=100)
@given(st.lists(st.tuples(*[st.floats(-1e4, 1e4, width=32)] * 4), max_size=8))
def test_iou_is_symmetric_and_a_fraction(boxes: list[tuple[float, ...]]) -> None:
    matrix = box_iou_matrix(boxes, boxes)
    assert (matrix == matrix.T).all()
    assert ((matrix >= 0) & (matrix <= 1)).all()


def test_the_public_names() -> None:
    assert all(hasattr(postprocess, name) for name in postprocess.__all__)
    assert sorted(postprocess.__all__) == postprocess.__all__
