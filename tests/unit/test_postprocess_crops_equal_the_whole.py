"""A cropped mask is the whole picture's mask, however little of the picture was computed."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from florence2_sam2.postprocess import CroppedMask, union_mask, upsample_mask


def weights(size: int, pixels: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """torch's source positions for align_corners=False: lower index, upper index, weight of the upper."""
    scale = float(np.float32(size) / np.float32(pixels))
    position = np.array([max(scale * (p + 0.5) - 0.5, 0) for p in range(pixels)], dtype=np.float32)
    low = position.astype(np.int64)
    return low, np.minimum(low + 1, size - 1), position - low.astype(np.float32)


def whole(logits: NDArray[np.float32], width: int, height: int) -> NDArray[np.bool_]:
    """The whole picture at once: horizontally, then vertically, all in FP32."""
    low, high, weight = weights(logits.shape[1], width)
    top, bottom, down = weights(logits.shape[0], height)
    with np.errstate(invalid="ignore"):
        wide = logits[:, low] * (1 - weight) + logits[:, high] * weight
        full = wide[top] * (1 - down)[:, None] + wide[bottom] * down[:, None]
    assert full.dtype == np.float32
    return full > 0


def check_upsampling(logits: NDArray[np.float32], width: int, height: int) -> None:
    mask = upsample_mask(logits, width, height)
    assert (mask.width, mask.height) == (width, height)
    assert (mask.full() == whole(logits, width, height)).all()
    x1, y1, x2, y2 = mask.box()
    assert mask.bits.shape == (y2 - y1, x2 - x1)


odd = np.array([0.0, -0.0, 2e-38, -2e-38, 1e-30, 3e38, np.inf, -np.inf, np.nan], dtype=np.float32)
values = st.one_of(st.floats(-40, 40, width=32, allow_subnormal=False), st.sampled_from(odd.tolist()))
shapes = array_shapes(min_dims=2, max_dims=2, max_side=12)
drawn = arrays(np.float32, shapes, elements=values, fill=st.sampled_from([np.float32(-3), np.float32(2)]))


@st.composite
def noise(draw: st.DrawFn) -> NDArray[np.float32]:
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.integers(1, 64))
    level = draw(st.sampled_from([-30.0, -15.0, 0.0, 15.0]))
    return (generator.normal(size=(size, size)) * 10 + level).astype(np.float32)


sides = st.integers(1, 150)


@settings(max_examples=150)
@given(st.one_of(drawn, noise()), sides, sides)
def test_upsampling_the_crop_is_upsampling_the_whole(
    logits: NDArray[np.float32], width: int, height: int
) -> None:
    check_upsampling(logits, width, height)


@pytest.mark.long
@settings(max_examples=3000)
@given(st.one_of(drawn, noise()), sides, sides)
def test_upsampling_the_crop_is_upsampling_the_whole_long(
    logits: NDArray[np.float32], width: int, height: int
) -> None:
    check_upsampling(logits, width, height)


@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (1, 4000), (4000, 1), (256, 256), (100, 80), (1280, 853)]
)
def test_sizes_far_from_the_logits(width: int, height: int) -> None:
    generator = np.random.default_rng(5)
    check_upsampling(generator.normal(size=(256, 256)).astype(np.float32), width, height)


@pytest.mark.parametrize("value", [-1.0, 0.0, float("nan"), float("-inf")])
def test_no_positive_logit_gives_an_empty_mask(value: float) -> None:
    mask = upsample_mask(np.full((256, 256), value, dtype=np.float32), 4000, 3000)
    assert mask.bits.shape == (0, 0)
    assert mask.area == 0
    assert mask.box() == (0, 0, 0, 0)


def test_all_positive_logits_fill_the_picture() -> None:
    mask = upsample_mask(np.full((256, 256), 0.5, dtype=np.float32), 301, 200)
    assert (mask.x, mask.y, mask.area) == (0, 0, 301 * 200)


def test_logits_too_small_to_multiply_are_computed_as_they_are() -> None:
    generator = np.random.default_rng(8)
    logits = (generator.choice([-1.0, 1.0], size=(9, 9)) * 1e-45).astype(np.float32)
    assert (logits > 0).any()
    check_upsampling(logits, 60, 50)


def test_a_small_object_on_a_large_picture_costs_little_memory() -> None:
    logits = np.full((256, 256), -5, dtype=np.float32)
    logits[100:120, 50:80] = 5
    upsample_mask(logits, 4000, 3000)
    tracemalloc.start()
    mask = upsample_mask(logits, 4000, 3000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert mask.area > 100_000
    assert peak < 2_000_000, "a picture of 12 megapixels in FP32 takes 48 MB"


pixels = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=20))


@settings(max_examples=500)
@given(pixels)
def test_cropping_loses_nothing(mask: NDArray[np.bool_]) -> None:
    crop = CroppedMask.from_full(mask)
    assert (crop.full() == mask).all()
    assert crop.area == mask.sum()
    loose = CroppedMask(mask, 0, 0, mask.shape[1], mask.shape[0])
    assert loose.box() == crop.box()
    x1, y1, x2, y2 = crop.box()
    assert mask[y1:y2, x1:x2].sum() == mask.sum()
    assert crop.bits.shape == (y2 - y1, x2 - x1)


def test_a_crop_does_not_follow_the_mask_it_was_cut_from() -> None:
    mask = np.ones((3, 3), dtype=np.bool_)
    crop = CroppedMask.from_full(mask)
    mask[:] = False
    assert crop.area == 9


@settings(max_examples=500)
@given(arrays(np.bool_, st.tuples(st.integers(0, 5), st.integers(1, 12), st.integers(1, 12))))
def test_the_union_is_the_or(masks: NDArray[np.bool_]) -> None:
    _, height, width = masks.shape
    union = union_mask([CroppedMask.from_full(mask) for mask in masks], width, height)
    assert union.dtype == np.bool_
    assert (union == masks.any(axis=0)).all()


def test_masks_of_two_pictures_have_no_union() -> None:
    mask = CroppedMask.from_full(np.ones((2, 3), dtype=np.bool_))
    with pytest.raises(ValueError, match="3×2"):
        union_mask([mask], 2, 3)


@pytest.mark.parametrize(
    ("bits", "x", "y"),
    [
        (np.ones((2, 2), dtype=np.uint8), 0, 0),
        (np.ones(4, dtype=np.bool_), 0, 0),
        (np.ones((2, 2), dtype=np.bool_), 9, 0),
        (np.ones((2, 2), dtype=np.bool_), 0, 7),
        (np.ones((2, 2), dtype=np.bool_), -1, 0),
    ],
)
def test_a_crop_lies_in_its_picture(bits: NDArray[np.bool_], x: int, y: int) -> None:
    with pytest.raises(ValueError, match=r"bits|crop"):
        CroppedMask(bits, x, y, 10, 8)
