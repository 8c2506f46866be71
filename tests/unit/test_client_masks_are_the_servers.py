"""The client fills polygons back into the very masks that the server's `postprocess` made them from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from florence2_sam2.client.raster import fill
from florence2_sam2.postprocess import CroppedMask, mask_to_polygons


def back(mask: np.ndarray, precision: float) -> np.ndarray:
    filled = np.zeros_like(mask)
    for polygon in mask_to_polygons(CroppedMask.from_full(mask), precision):
        filled |= fill([polygon.exterior, *polygon.holes], *mask.shape)
    return filled


@given(arrays.arrays(bool, st.tuples(st.integers(1, 16), st.integers(1, 16))))
def test_exact_polygons(mask: np.ndarray) -> None:
    assert np.array_equal(back(mask, 0), mask)


@pytest.mark.parametrize("seed", range(5))
def test_simplified_polygons_of_large_masks(seed: int) -> None:
    y, x = np.mgrid[:300, :400]
    rng = np.random.default_rng(seed)
    mask = np.zeros((300, 400), bool)
    for _ in range(3):
        cx, cy, r = rng.uniform(50, 350), rng.uniform(50, 250), rng.uniform(20, 80)
        distance = np.hypot(x - cx, y - cy)
        mask |= (distance < r) & (distance > r / 3)
    assert np.array_equal(back(mask, 0), mask)
    simple = back(mask, 0.001)
    assert (simple & mask).sum() / (simple | mask).sum() > 0.95
