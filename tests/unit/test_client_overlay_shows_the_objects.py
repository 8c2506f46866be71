"""The overlay tints what the masks cover, leaves the rest, and stays legible at any size."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
from kserve_peer import ANSWER, serving
from PIL import Image

from florence2_sam2.client import Segmentation, Segmenter
from florence2_sam2.client.overlay import Layer, colours, draw

GREY = Image.new("RGB", (200, 160), (128, 128, 128))


def ring() -> np.ndarray:
    mask = np.zeros((160, 200), bool)
    mask[60:140, 40:160] = True
    mask[80:120, 80:120] = False
    return mask


def changed(shown: Image.Image) -> np.ndarray:
    return (np.asarray(shown) != np.asarray(GREY)).any(axis=2)


def test_without_a_label_exactly_the_mask_is_painted() -> None:
    assert np.array_equal(changed(draw(GREY, [Layer(None, None, ring())])), ring())


def test_the_fill_lets_the_picture_through_and_the_outline_does_not() -> None:
    picture = np.full((160, 200, 3), 128, np.uint8)
    picture[:, ::2] = 90
    shown = np.asarray(draw(Image.fromarray(picture), [Layer(None, None, ring())]))
    inside, edge = shown[100, 50:70], shown[60, 50:70]
    assert len(np.unique(inside, axis=0)) == 2
    assert np.array_equal(np.unique(edge, axis=0), np.array([colours(1)[0]], np.uint8))
    assert np.array_equal(shown[79, 90], colours(1)[0])  # the hole has an outline too


def test_a_mask_over_the_whole_picture_has_its_outline() -> None:
    shown = np.asarray(draw(GREY, [Layer(None, None, np.ones((160, 200), bool))]))
    assert np.array_equal(shown[0, 100], colours(1)[0])
    assert np.array_equal(shown[100, 199], colours(1)[0])


@pytest.mark.parametrize("corner", [(0, 0), (0, 199), (159, 0), (159, 199)])
@pytest.mark.parametrize("label", ["a dog", "a very long name " * 30, "ein Käfer 🪲", ""])
def test_labels_stay_within_the_picture(corner: tuple[int, int], label: str) -> None:
    mask = np.zeros((160, 200), bool)
    mask[corner] = True
    count = int(changed(draw(GREY, [Layer(label, 0.5, mask)])).sum())
    assert 50 < count < 200 * 160 / 2


def test_labels_of_neighbours_do_not_cover_each_other() -> None:
    masks = [np.zeros((160, 200), bool) for _ in range(3)]
    for index, mask in enumerate(masks):
        mask[70:90, 60 + 20 * index : 75 + 20 * index] = True
    alone = sum(int(changed(draw(GREY, [Layer("a thing", 0.9, mask)])).sum()) for mask in masks)
    together = int(changed(draw(GREY, [Layer("a thing", 0.9, mask) for mask in masks])).sum())
    assert together > 0.8 * alone


def test_colours_are_distinct_and_the_same_every_time() -> None:
    chosen = colours(12)
    assert chosen == colours(12)
    assert chosen[:5] == colours(5)
    distances = [np.abs(np.subtract(one, other)).sum() for one, other in itertools.combinations(chosen, 2)]
    assert min(distances) > 40


@pytest.mark.parametrize("size", [(1, 1), (4, 300), (2000, 1500)])
def test_lines_and_letters_grow_with_the_picture(size: tuple[int, int]) -> None:
    width, height = size
    mask = np.zeros((height, width), bool)
    mask[height // 2 :, width // 3 :] = True
    shown = draw(Image.new("RGB", size), [Layer("a dog", 0.5, mask)])
    assert shown.size == size
    if width == 2000:
        row = np.asarray(shown)[height * 3 // 4]
        solid = (row == np.array(colours(1)[0], np.uint8)).all(axis=1)
        assert 3 <= solid[: width // 2].sum() <= 6  # one pixel wide on a thumbnail


def test_nothing_to_draw_changes_nothing() -> None:
    assert not changed(draw(GREY, [])).any()
    assert not changed(draw(GREY, [Layer("a dog", 0.5, np.zeros((160, 200), bool))])).any()


def result(**changes: Any) -> Segmentation:
    return Segmentation.from_json(copy.deepcopy(ANSWER) | changes)


def test_a_result_draws_on_the_picture_that_was_sent() -> None:
    with serving() as peer, Segmenter(peer.address) as segmenter:
        sent = segmenter.segment(np.full((8, 12, 3), 128, np.uint8))
        fetched = segmenter.segment("data:image/png;base64,AA")
    assert sent.overlay().size == (12, 8)
    with pytest.raises(ValueError, match=r"give it as `image`"):
        fetched.overlay()


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="the picture is 8×12, the answer's 12×8"):
        result().overlay(np.zeros((12, 8, 3), np.uint8))
