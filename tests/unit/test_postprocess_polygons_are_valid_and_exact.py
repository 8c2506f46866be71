"""Polygons fill to the mask they came from, and are valid by the rules of the OGC at every precision."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from florence2_sam2.postprocess import CroppedMask, Polygon, mask_to_polygons

DEFAULT = 0.001
PRECISIONS = [0.0, 1e-4, DEFAULT, 0.003, 0.01, 0.03, 0.1, 1.0, 1e9]

# name → rows of the mask, number of parts, number of holes
NAMED = {
    "one pixel": (["#"], 1, 0),
    "empty": (["...", "..."], 0, 0),
    "whole picture": (["###", "###"], 1, 0),
    "one row": (["..####.."], 1, 0),
    "one column": (["#", "#", "#"], 1, 0),
    "falling diagonal": (["#..", ".#.", "..#"], 3, 0),
    "rising diagonal": (["..#", ".#.", "#.."], 3, 0),
    "ring": (["#####", "#...#", "#...#", "#####"], 1, 1),
    "ring closed at a corner": ([".###", "#..#", "#..#", "####"], 1, 1),
    "hole at an inner corner": (["####", "##.#", "#.##", "####"], 1, 2),
    "holes in a chain to the border": (["#.##", "##.#", "#.##", "####"], 1, 2),
    "checkerboard": (["#.#.", ".#.#", "#.#.", ".#.#"], 8, 0),
    "border": (["####", "#..#", "#..#", "####"], 1, 1),
    "island in a hole": (["#######", "#.....#", "#.###.#", "#.#.#.#", "#.###.#", "#.....#", "#######"], 2, 2),
    "island that touches its hole's corner": (["#####", "##..#", "#.#.#", "#...#", "#####"], 2, 1),
    "two parts": (["##..##", "##..##"], 2, 0),
    "comb": (["#.#.#.#", "#######"], 1, 0),
    "spiral": (["#######", "......#", "#####.#", "#...#.#", "#.###.#", "#.....#", "#######"], 1, 0),
}


def picture(rows: list[str]) -> NDArray[np.bool_]:
    return np.array([[character == "#" for character in row] for row in rows], dtype=np.bool_)


def rings_of(polygons: list[Polygon]) -> list[NDArray[np.int32]]:
    return [ring for polygon in polygons for ring in (polygon.exterior, *polygon.holes)]


def fill(polygons: list[Polygon], width: int, height: int) -> NDArray[np.bool_]:
    """Pixels whose centre is inside, by the even-odd rule: written for this test, edge by edge."""
    crossings = np.zeros((height, width + 1), dtype=np.int64)
    for ring in rings_of(polygons):
        for (x1, y1), (x2, y2) in zip(ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True):
            for row in range(min(y1, y2), max(y1, y2)):
                x = x1 + (x2 - x1) * (row + 0.5 - y1) / (y2 - y1)
                crossings[row, int(np.ceil(x - 0.5))] += 1
    return np.cumsum(crossings, axis=1)[:, :width] % 2 == 1


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum()) if (a | b).any() else 1.0


def check_valid(polygons: list[Polygon], width: int, height: int) -> None:
    shapes = [shapely.Polygon(polygon.exterior, polygon.holes) for polygon in polygons]
    for polygon, shape in zip(polygons, shapes, strict=True):
        assert shape.is_valid, shapely.is_valid_reason(shape)
        assert shape.area == polygon.area > 0
        assert shape.exterior.is_ccw
        assert not any(hole.is_ccw for hole in shape.interiors)
    together = shapely.MultiPolygon(shapes)
    assert together.is_valid, shapely.is_valid_reason(together)
    for ring in rings_of(polygons):
        assert ring.dtype == np.int32
        assert len(ring) >= 3
        assert len(np.unique(ring, axis=0)) == len(ring)
        assert (ring >= 0).all()
        assert (ring <= [width, height]).all()


def check_exact(mask: NDArray[np.bool_]) -> None:
    height, width = mask.shape
    polygons = mask_to_polygons(CroppedMask.from_full(mask), 0)
    check_valid(polygons, width, height)
    assert (fill(polygons, width, height) == mask).all()
    assert sum(polygon.area for polygon in polygons) == mask.sum()
    areas = [polygon.area for polygon in polygons]
    assert areas == sorted(areas, reverse=True)
    foreground, _ = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    assert len(polygons) == foreground - 1
    for ring in rings_of(polygons):
        step = np.roll(ring, -1, axis=0) - ring
        assert ((step == 0).sum(axis=1) == 1).all(), "edges run along one axis"
        assert ((step != 0) != (np.roll(step, -1, axis=0) != 0)).all(), "no point lies between two others"


def check_simplified(mask: NDArray[np.bool_], precision: float) -> None:
    height, width = mask.shape
    crop = CroppedMask.from_full(mask)
    exact, simplified = mask_to_polygons(crop, 0), mask_to_polygons(crop, precision)
    check_valid(simplified, width, height)
    assert sorted(len(p.holes) for p in simplified) == sorted(len(p.holes) for p in exact)
    assert iou(fill(simplified, width, height), mask) >= 1 - 50 * precision
    corners = {tuple(point) for ring in rings_of(exact) for point in ring.tolist()}
    assert all(tuple(point) in corners for ring in rings_of(simplified) for point in ring.tolist())


@st.composite
def blobs(draw: st.DrawFn) -> NDArray[np.bool_]:
    """Smooth noise cut at a level: parts, holes, islands and necks of all sizes, many of them on the border."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.tuples(st.integers(1, 160), st.integers(1, 160)))
    noise = cv2.GaussianBlur(
        generator.normal(size=shape), (0, 0), draw(st.sampled_from([0.5, 1.0, 3.0, 9.0]))
    )
    return noise.reshape(shape) > np.quantile(noise, draw(st.sampled_from([0.05, 0.3, 0.5, 0.7, 0.97])))


pixels = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12))
masks = st.one_of(pixels, blobs())


@pytest.mark.parametrize(("rows", "parts", "holes"), NAMED.values(), ids=NAMED.keys())
def test_named_masks_at_precision_0(rows: list[str], parts: int, holes: int) -> None:
    mask = picture(rows)
    check_exact(mask)
    polygons = mask_to_polygons(CroppedMask.from_full(mask), 0)
    assert len(polygons) == parts
    assert sum(len(polygon.holes) for polygon in polygons) == holes


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rows", [rows for rows, _, _ in NAMED.values()], ids=NAMED.keys())
def test_named_masks_stay_valid(rows: list[str], precision: float) -> None:
    check_simplified(picture(rows), precision)


@settings(max_examples=60)
@given(masks)
def test_filling_exact_polygons_gives_the_mask_back(mask: NDArray[np.bool_]) -> None:
    check_exact(mask)


@pytest.mark.long
@pytest.mark.timeout(1800)
@settings(max_examples=600)
@given(masks)
def test_filling_exact_polygons_gives_the_mask_back_long(mask: NDArray[np.bool_]) -> None:
    check_exact(mask)


@settings(max_examples=60)
@given(masks, st.sampled_from(PRECISIONS))
def test_simplified_polygons_are_valid_and_close(mask: NDArray[np.bool_], precision: float) -> None:
    check_simplified(mask, precision)


@pytest.mark.long
@pytest.mark.timeout(1800)
@settings(max_examples=600)
@given(masks, st.sampled_from(PRECISIONS))
def test_simplified_polygons_are_valid_and_close_long(mask: NDArray[np.bool_], precision: float) -> None:
    check_simplified(mask, precision)


def test_one_pixel_has_four_corners() -> None:
    mask = np.zeros((5, 7), dtype=np.bool_)
    mask[2, 4] = True
    (polygon,) = mask_to_polygons(CroppedMask.from_full(mask), DEFAULT)
    assert polygon.exterior.tolist() == [[4, 2], [5, 2], [5, 3], [4, 3]]
    assert polygon.holes == []


def test_an_exterior_turns_as_geojson_wants_and_a_hole_the_other_way() -> None:
    (polygon,) = mask_to_polygons(CroppedMask.from_full(picture(["###", "#.#", "###"])), 0)
    assert polygon.exterior.tolist() == [[0, 0], [3, 0], [3, 3], [0, 3]]
    (hole,) = polygon.holes
    assert hole.tolist() in [[[2, 1], [1, 1], [1, 2], [2, 2]], [[1, 1], [1, 2], [2, 2], [2, 1]]]


def test_a_thin_line_is_not_simplified_away() -> None:
    mask = np.zeros((40, 2000), dtype=np.bool_)
    mask[20, 10:1990] = True
    for precision in PRECISIONS:
        (polygon,) = mask_to_polygons(CroppedMask.from_full(mask), precision)
        assert polygon.area >= (1980 if precision <= DEFAULT else 990)


def test_a_hole_near_the_border_stays_inside_its_exterior() -> None:
    yy, xx = np.mgrid[:400, :400]
    mask = np.hypot(xx - 200, yy - 200) < 190
    mask[13:15, 199:201] = False  # just inside the top of the disc, which a coarse exterior cuts off
    for precision in PRECISIONS:
        (polygon,) = mask_to_polygons(CroppedMask.from_full(mask), precision)
        assert len(polygon.holes) == 1
        check_simplified(mask, precision)


def test_a_large_disc_gets_few_points() -> None:
    yy, xx = np.mgrid[:1000, :1000]
    mask = np.hypot(xx - 500, yy - 480) < 400
    (polygon,) = mask_to_polygons(CroppedMask.from_full(mask), DEFAULT)
    assert len(polygon.exterior) < 80
    assert iou(fill([polygon], 1000, 1000), mask) > 0.99


def test_finer_precision_gives_more_points() -> None:
    yy, xx = np.mgrid[:600, :600]
    crop = CroppedMask.from_full(np.hypot(xx - 300, (yy - 300) * 1.7) < 280 + 15 * np.sin(xx / 9))
    counts = [len(mask_to_polygons(crop, precision)[0].exterior) for precision in (0.01, DEFAULT, 1e-4, 0)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


@pytest.mark.parametrize("precision", [-1e-9, float("nan"), float("inf")])
def test_precision_must_be_a_finite_number_that_is_not_negative(precision: float) -> None:
    with pytest.raises(ValueError, match="precision"):
        mask_to_polygons(CroppedMask.from_full(np.ones((2, 2), dtype=np.bool_)), precision)
