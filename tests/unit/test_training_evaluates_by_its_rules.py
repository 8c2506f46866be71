"""What `florence2_sam2.training.evaluate` counts as found, and as really there."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from florence2_sam2.training.captions import Mention
from florence2_sam2.training.evaluate import matched_iou, of_those_said

LEFT, RIGHT, FAR = (0.1, 0.1, 0.3, 0.3), (0.25, 0.1, 0.45, 0.3), (0.7, 0.7, 0.9, 0.9)


def mention(phrase: str, *boxes: tuple[float, ...]) -> Mention:
    return Mention(phrase, np.array(boxes, float).reshape(-1, 4))


def test_a_box_serves_one_thing_only() -> None:
    assert matched_iou(mention("two red cups", LEFT, FAR), [mention("a red cup", LEFT)]) == [1.0, 0.0]


def test_another_label_or_none_finds_nothing() -> None:
    truth = mention("a red cup", LEFT)
    assert matched_iou(truth, [mention("a blue cup", LEFT), mention("cup", LEFT)]) == [0.0]
    assert matched_iou(truth, []) == [0.0]


def test_number_and_size_are_beside_the_point() -> None:
    said = [mention("a tiny red cup", RIGHT), mention("two red cups", LEFT)]
    assert matched_iou(mention("a red cup", LEFT), said) == [1.0]


def test_what_is_said_twice_is_there_once() -> None:
    truth = [mention("a red cup", LEFT), mention("a blue key", FAR)]
    said = [mention("a red cup", LEFT), mention("a red cup", LEFT), mention("a green key", FAR)]
    assert sorted(of_those_said(truth, said)) == [False, False, True]
