"""Nothing of an answer is lost on the way into typed results, and masks come out as they went in."""

from __future__ import annotations

import base64
import copy
import dataclasses
import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from kserve_peer import ANSWER
from PIL import Image

from florence2_sam2.client import FilteredObject, Polygon, Segmentation
from florence2_sam2.client.raster import fill

RING = np.zeros((8, 12), bool)
RING[1:6, 1:7] = True
RING[3, 3:6] = False
RING[2, 9] = True


def answer(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(ANSWER) | changes


def png(mask: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG")
    return buffer.getvalue()


def test_every_field_is_typed() -> None:
    result = Segmentation.from_json(answer())
    assert (result.width, result.height) == (12, 8)
    assert (result.caption, result.caption_source) == (
        "The image shows a ring on a wooden table.",
        "florence2",
    )
    (ring,) = result.objects
    assert (ring.label, ring.box, ring.score, ring.mask_area) == ("a ring", (1, 1, 7, 6), 0.947, 24)
    assert ring.polygons[0] == Polygon(((1, 1), (7, 1), (7, 6), (1, 6)), (((3, 3), (3, 4), (6, 4), (6, 3)),))
    assert result.filtered == (FilteredObject("a wooden table", (0, 4, 12, 8), 0.51, None, "area"),)
    assert result.parameters["area_threshold"] == 0.3
    assert result.models["sam2"]["precision"] == "fp32"
    assert result.warnings == ("caption: cut at a sentence",)
    assert result.timings_ms["caption"] == 20.0
    assert (result.mask_url, result.mask_png) == (None, None)


def test_results_are_frozen_and_dictionaries_are_copies() -> None:
    result = Segmentation.from_json(answer())
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.width = 3  # type: ignore[misc]
    result.to_dict()["objects"].clear()
    assert result.to_dict() == ANSWER
    assert json.loads(result.to_json()) == ANSWER
    assert Segmentation.from_json(json.loads(result.to_json(indent=1))) == result


def test_fields_of_newer_servers_stay_readable() -> None:
    result = Segmentation.from_json(answer(coco={"annotations": []}))
    assert result.raw["coco"] == {"annotations": []}


def test_nothing_found() -> None:
    result = Segmentation.from_json(answer(objects=[], filtered=[]))
    assert result.objects == ()
    assert result.masks().shape == (0, 8, 12)
    assert not result.mask().any()


def test_masks_have_their_parts_and_holes() -> None:
    result = Segmentation.from_json(answer())
    assert np.array_equal(result.masks(), RING[None])
    assert np.array_equal(result.mask(), RING)


def test_normalized_polygons_give_the_same_mask() -> None:
    body = answer()
    body["parameters"]["normalized"] = True
    for polygon in body["objects"][0]["polygons"]:
        for ring in (polygon["exterior"], *polygon["holes"]):
            ring[:] = [[x / 12, y / 8] for x, y in ring]
    assert np.array_equal(Segmentation.from_json(body).mask(), RING)


def test_one_mask_from_its_bytes_or_its_url() -> None:
    url = "data:image/png;base64," + base64.b64encode(png(RING)).decode()
    body = answer(mask_url=url)
    del body["objects"][0]["polygons"]
    for result in (Segmentation.from_json(body), Segmentation.from_json(body, mask_png=png(RING))):
        assert np.array_equal(result.mask(), RING)
        assert result.mask_url == url
        with pytest.raises(ValueError, match="one mask"):
            result.masks()


def test_a_mask_in_a_store_comes_as_bytes() -> None:
    result = Segmentation.from_json(answer(mask_url="s3://bucket/mask.png"), mask_png=png(RING))
    assert np.array_equal(result.mask(), RING)


def test_the_compact_view_has_an_entry_for_each_part() -> None:
    body = answer(
        labels=["a ring", "a ring"],
        boxes=[[1, 1, 7, 6]] * 2,
        scores=[0.947] * 2,
        polygons=[part["exterior"] for part in ANSWER["objects"][0]["polygons"]],
        holes=[part["holes"] for part in ANSWER["objects"][0]["polygons"]],
    )
    del body["objects"]
    result = Segmentation.from_json(body)
    assert [item.label for item in result.objects] == ["a ring", "a ring"]
    assert result.objects[0].area_ratio == 0.3125
    assert np.array_equal(result.mask(), RING)


@pytest.mark.parametrize("missing", ["image", "objects"])
def test_an_answer_of_another_form_is_not_taken_for_an_empty_one(missing: str) -> None:
    body = answer()
    del body[missing]
    with pytest.raises(KeyError):
        Segmentation.from_json(body)


def pixel_edges(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """One square ring around each pixel: together they are the mask, by definition."""
    return [[(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)] for y, x in np.argwhere(mask).tolist()]


@given(arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_filling_pixel_edges_is_exact(mask: np.ndarray) -> None:
    assert np.array_equal(fill(pixel_edges(mask), *mask.shape), mask)


@given(
    st.lists(st.tuples(st.floats(-3, 15), st.floats(-3, 12)), min_size=3, max_size=8),
    st.integers(0, 7),
    st.booleans(),
)
def test_filling_does_not_depend_on_where_a_ring_starts_or_how_it_turns(
    ring: list[tuple[float, float]], start: int, backwards: bool
) -> None:
    turned = ring[start % len(ring) :] + ring[: start % len(ring)]
    turned = turned[::-1] if backwards else turned
    once, again = fill([ring], 9, 12), fill([turned], 9, 12)
    # Centres that lie on an edge may fall to either side when it is computed from its other end.
    assert np.count_nonzero(once != again) <= len(ring)


def test_filling_a_slanted_ring_takes_pixels_by_their_centre() -> None:
    triangle = fill([[(0, 0), (4, 0), (0, 4)]], 4, 4)
    assert triangle.tolist() == [
        [True, True, True, False],
        [True, True, False, False],
        [True, False, False, False],
        [False, False, False, False],
    ]
