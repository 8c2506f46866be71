"""Pictures of many small things: the same each time, and judged by kind and mask."""

from __future__ import annotations

import numpy as np
import pytest

from bench.quality import crowds, scenes
from bench.quality.crowds import ACROSS, CELL, TILES, Crowd
from bench.quality.judge import Mark
from florence2_sam2.client import Segmentation
from florence2_sam2.postprocess import CroppedMask, encode_rle
from florence2_sam2.training.scenes import Scene


def answer(scene: Scene, reports: list[tuple[str, np.ndarray]]) -> Segmentation:
    height, width = scene.image.shape[:2]
    objects = [
        {
            "label": label,
            "box": [0, 0, 10, 10],
            "area_ratio": 0.1,
            "score": 0.9,
            "rle": encode_rle(CroppedMask.from_full(mask)),
        }
        for label, mask in reports
    ]
    return Segmentation.from_json({"image": {"width": width, "height": height}, "objects": objects})


@pytest.fixture(scope="module")
def scene() -> Scene:
    return crowds.draw(0)


def test_a_picture_is_nine_scenes_that_nothing_else_asks_about(scene: Scene) -> None:
    width, height = CELL
    assert scene.image.shape == (height * ACROSS, width * ACROSS, 3)
    part = scenes.draw(10**6 + 4, size=CELL)
    assert np.array_equal(scene.image[height : 2 * height, width : 2 * width], part.image)
    middle = [thing for thing in scene.objects if thing.mask[height : 2 * height, width : 2 * width].any()]
    assert [(thing.kind, thing.colour) for thing in middle] == [(t.kind, t.colour) for t in part.objects]
    assert all(thing.mask.sum() == t.mask.sum() for thing, t in zip(middle, part.objects, strict=True))
    for thing in scene.objects:
        rows, columns = np.nonzero(thing.mask)
        assert thing.box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.array_equal(crowds.draw(0).image, scene.image)
    assert not np.array_equal(crowds.draw(1).image, scene.image)


def test_right_kind_and_mask_are_found_once(scene: Scene) -> None:
    things = [thing for thing in scene.objects if thing.kind != "table" and thing.visible >= 0.5]
    right = [(thing.kind, thing.mask) for thing in things]
    judged = crowds.judge(scene, answer(scene, right), 2, 1.5)
    assert (judged.tiles, judged.seconds) == (2, 1.5)
    assert [mark.value for mark in judged.found] == [1] * len(things)
    assert [mark.value for mark in judged.real] == [1] * len(things)
    twice = crowds.judge(scene, answer(scene, [right[0], right[0]]), 1, 1)
    assert sum(mark.value for mark in twice.found) == 1
    assert sorted(mark.value for mark in twice.real) == [0, 1]
    other = crowds.judge(scene, answer(scene, [("no such kind", right[0][1]), ("table", right[1][1])]), 1, 1)
    assert sum(mark.value for mark in other.found) == 0
    assert [mark.value for mark in other.real] == [0]
    assert crowds.judge(scene, answer(scene, []), 1, 1).real == []


def test_the_table_has_a_line_for_each_number_of_tiles() -> None:
    def mark(value: float) -> list[Mark]:
        return [Mark("cat", "< 0.1", False, value)] * 4

    made = [Crowd(tiles, mark(tiles / 4), mark(1), tiles * tiles) for _ in range(3) for tiles in TILES]
    lines = crowds.text(made).splitlines()
    assert len(lines) == 2 + 2 + len(TILES)
    assert lines[-1].startswith("| 4 ")
    assert lines[-1].endswith("16.0x |")
    assert [row["found"]["value"] for row in crowds.to_json(made)] == [0.25, 0.5, 0.75, 1]
