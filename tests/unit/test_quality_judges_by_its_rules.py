"""Each rule of the quality table on a hand-made scene: what counts, what is found, what is too much, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bench.quality.ask import Box
from bench.quality.judge import EndToEnd, judge_answer, judge_grounding, judge_masks, reasons
from florence2_sam2.client import Segmentation
from florence2_sam2.training.scenes import Scene, SceneObject

SIDE = 100
Corners = tuple[int, int, int, int]
RED_CAR, TABLE = (10, 10, 30, 30), (0, 40, 100, 100)
TWO_CUPS = (50, 10, 60, 20), (70, 10, 80, 20)


def rectangle(box: Corners) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def thing(phrase: str, kind: str, colour: str, box: Corners, visible: float = 1.0) -> SceneObject:
    return SceneObject(phrase, kind, colour, np.array(box, np.float32), rectangle(box), visible)


def scene(*objects: SceneObject) -> Scene:
    return Scene(np.zeros((SIDE, SIDE, 3), np.uint8), list(objects), "", "a plain wall")


CAR = thing("a large red car", "car", "red", RED_CAR)
CUPS = [thing("two blue cups", "cup", "blue", box) for box in TWO_CUPS]
WOOD = thing("a wooden table", "table", "", TABLE, 0.8)


def report(label: str, box: Corners, score: float = 0.9, mask: Corners | None = None) -> dict[str, Any]:
    left, top, right, bottom = mask or box
    ring = [[left, top], [left, bottom], [right, bottom], [right, top]]
    return {
        "label": label,
        "box": list(box),
        "area_ratio": 0.0,
        "score": score,
        "polygons": [{"exterior": ring, "holes": []}],
    }


def answer(
    caption: str, objects: Sequence[dict[str, Any]], filtered: Sequence[dict[str, Any]] = ()
) -> Segmentation:
    return Segmentation.from_json(
        {
            "image": {"width": SIDE, "height": SIDE},
            "caption": caption,
            "caption_source": "florence2",
            "objects": list(objects),
            "filtered": list(filtered),
            "parameters": {"area_threshold": 0.3},
        }
    )


def dropped(label: str, box: Corners, reason: str) -> dict[str, Any]:
    return {"label": label, "box": list(box), "area_ratio": 0.0, "score": 0.4, "reason": reason}


def shares(judged: EndToEnd) -> tuple[list[float], list[float]]:
    return [m.value for m in judged.found], [m.value for m in judged.real]


def test_a_perfect_answer_is_perfect() -> None:
    caption = "The image shows a large red car next to two blue cups on a wooden table."
    judged = judge_answer(
        scene(CAR, *CUPS, WOOD),
        answer(
            caption,
            [report("a large red car", RED_CAR), *(report("two blue cups", b) for b in TWO_CUPS)],
            [dropped("a wooden table", TABLE, "area")],
        ),
    )
    assert shares(judged) == ([1, 1, 1], [1, 1, 1])  # the table is over the area threshold: not asked for
    assert [m.value for m in judged.found_by_phrase] == [1, 1, 1]
    assert not judged.missed
    assert not judged.wrong


def test_words_of_size_and_number_do_not_matter_but_are_counted_apart() -> None:
    judged = judge_answer(
        scene(CAR, CUPS[0]), answer("", [report("a red car", RED_CAR), report("a blue cup", TWO_CUPS[0])])
    )
    assert shares(judged) == ([1, 1], [1, 1])
    assert [m.value for m in judged.found_by_phrase] == [0, 0]


@pytest.mark.parametrize("label", ["a red boat", "a blue car", "car", "the car"])
def test_a_wrong_label_is_a_miss_and_a_report_too_many(label: str) -> None:
    judged = judge_answer(scene(CAR), answer(f"The image shows {label}.", [report(label, RED_CAR)]))
    assert shares(judged) == ([0], [0])
    assert reasons(judged.missed) == {"not in the caption": 1}
    assert reasons(judged.wrong) == {"nothing like it": 1}


@pytest.mark.parametrize(("right", "found"), [(25, 1), (24, 0)])
def test_masks_must_overlap_by_three_quarters(right: int, found: int) -> None:
    mask = (10, 10, right, 30)  # (right - 10) / 20 of the car
    judged = judge_answer(scene(CAR), answer("a red car", [report("a red car", RED_CAR, mask=mask)]))
    assert shares(judged) == ([found], [found])
    if not found:
        assert [f.text for f in judged.missed] == ["missed a large red car: mask IoU 0.70 in a box of 1.00"]
        assert reasons(judged.wrong) == {"poorly outlined or elsewhere": 1}


def test_the_second_report_of_a_thing_is_one_too_many() -> None:
    judged = judge_answer(
        scene(CAR), answer("", [report("a red car", RED_CAR), report("a red car", RED_CAR)])
    )
    assert shares(judged) == ([1], [1, 0])
    assert reasons(judged.wrong) == {"twice": 1}


def test_one_report_does_not_find_two_things() -> None:
    judged = judge_answer(scene(*CUPS), answer("two blue cups", [report("two blue cups", TWO_CUPS[0])]))
    assert shares(judged) == ([1, 0], [1])
    assert reasons(judged.missed) == {"no right box": 1}


def test_a_right_report_of_what_was_not_asked_for_is_neither_right_nor_wrong() -> None:
    judged = judge_answer(
        scene(CAR, WOOD), answer("", [report("a red car", RED_CAR), report("a wooden table", TABLE)])
    )
    assert shares(judged) == ([1], [1])
    elsewhere = answer("", [report("a red car", RED_CAR), report("a wooden table", RED_CAR)])
    assert shares(judge_answer(scene(CAR, WOOD), elsewhere)) == ([1], [1, 0])


def test_what_is_hidden_by_more_than_half_is_not_asked_for() -> None:
    hidden = thing("a red car", "car", "red", RED_CAR, 0.49)
    assert shares(judge_answer(scene(hidden, CUPS[0]), answer("", []))) == ([0], [])
    assert len(judge_grounding(scene(hidden, CUPS[0]), [])) == 1
    masks = np.zeros((2, SIDE, SIDE), bool)
    assert [len(m) for m in judge_masks(scene(hidden, CUPS[0]), masks, np.zeros(2))] == [1, 1]
    half = thing("a red car", "car", "red", RED_CAR, 0.5)
    assert len(judge_grounding(scene(half), [])) == 1


@pytest.mark.parametrize("reason", ["area", "confidence", "nms"])
def test_the_filter_that_lost_a_thing_is_named(reason: str) -> None:
    judged = judge_answer(scene(CAR), answer("a red car", [], [dropped("a red car", RED_CAR, reason)]))
    assert [f.text for f in judged.missed] == [f"missed a large red car: dropped by {reason}, score 0.40"]
    assert reasons(judged.missed) == {f"dropped: {reason}": 1}


def test_an_empty_answer_finds_nothing_and_reports_nothing_wrong() -> None:
    judged = judge_answer(scene(CAR, *CUPS), answer("", []))
    assert shares(judged) == ([0, 0, 0], [])


def test_grounding_wants_the_very_phrase_and_half_of_the_box() -> None:
    picture = scene(CAR, *CUPS, WOOD)

    def ious(*boxes: Box) -> list[float]:
        return [round(m.value, 3) for m in judge_grounding(picture, boxes)]

    assert ious(Box("a large red car", RED_CAR), *(Box("two blue cups", b) for b in TWO_CUPS)) == [1, 1, 1, 0]
    assert ious(Box("a red car", RED_CAR), Box("a wooden table", TABLE)) == [0, 0, 0, 1]
    assert ious(Box("a large red car", (10, 10, 20, 30)))[0] == 0  # exactly half is not above half
    assert ious(Box("a large red car", (10, 10, 21, 30)))[0] == 0.55
    assert ious(Box("two blue cups", TWO_CUPS[1]), Box("two blue cups", TWO_CUPS[1])) == [0, 0, 1, 0]
    assert ious() == [0, 0, 0, 0]


def test_masks_of_boxes_are_held_against_their_scores() -> None:
    masks = np.stack([rectangle((10, 10, 20, 30)), rectangle(TWO_CUPS[0])])
    overlaps, errors = judge_masks(scene(CAR, CUPS[0]), masks, np.array([0.8, 0.9]))
    assert [m.value for m in overlaps] == [0.5, 1]
    assert [m.value for m in errors] == pytest.approx([0.3, 0.1])


def test_marks_say_what_they_are_about() -> None:
    unseen = thing("a purple car", "car", "purple", RED_CAR)
    marks = judge_grounding(scene(unseen, WOOD), [])
    assert [(m.kind, m.size, m.unseen) for m in marks] == [
        ("car", "0.2-0.35", True),
        ("table", "> 0.35", False),
    ]
