"""What is thin, or looks like what is around it, is hard to outline; training asks for it more often."""

import numpy as np
import pytest

from florence2_sam2.training.hard import hardness
from florence2_sam2.training.scenes import Scene, SceneObject, draw_scene

BROWN, DARKER, WHITE = (120, 80, 50), (112, 74, 46), (250, 250, 250)


def scene_with(
    box: tuple[int, int, int, int], colour: tuple[int, int, int], ground: tuple[int, int, int]
) -> Scene:
    """A picture of 200 × 200 with one rectangle."""
    image = np.full((200, 200, 3), ground, np.uint8)
    mask = np.zeros((200, 200), bool)
    x1, y1, x2, y2 = box
    mask[y1:y2, x1:x2] = True
    image[mask] = colour
    return Scene(image, [SceneObject("a thing", "thing", "", np.float32(box), mask, 1.0)], "", "")


WIDE, STRIP = (50, 50, 110, 110), (20, 100, 180, 102)


def test_a_wide_thing_that_stands_out_is_easy() -> None:
    assert hardness(scene_with(WIDE, BROWN, WHITE))[0] < 0.05


def test_a_thing_of_its_grounds_colour_is_hard() -> None:
    assert hardness(scene_with(WIDE, BROWN, DARKER))[0] > 0.8


def test_a_strip_is_hard() -> None:
    assert hardness(scene_with(STRIP, BROWN, WHITE))[0] == pytest.approx(1, abs=0.05)


def test_both_add_up() -> None:
    assert hardness(scene_with(STRIP, BROWN, DARKER))[0] > 1.8


def test_what_fills_the_picture_has_no_outside() -> None:
    assert hardness(scene_with((0, 0, 200, 200), BROWN, WHITE))[0] == 0


def test_each_thing_of_a_drawn_scene_is_judged() -> None:
    scene = draw_scene(np.random.default_rng(3))
    values = hardness(scene)
    assert values.shape == (len(scene.objects),)
    assert ((values >= 0) & (values <= 2)).all()
