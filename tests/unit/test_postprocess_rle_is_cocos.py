"""Run-length encodings are pycocotools', byte for byte, in both directions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from pycocotools import mask as coco

from florence2_sam2.postprocess import CroppedMask, decode_rle, encode_rle


def check(mask: NDArray[np.bool_]) -> None:
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    ours = encode_rle(CroppedMask.from_full(mask))
    assert ours == {"size": theirs["size"], "counts": theirs["counts"].decode("ascii")}
    height, width = mask.shape
    assert encode_rle(CroppedMask(mask, 0, 0, width, height)) == ours
    assert (coco.decode({"size": ours["size"], "counts": ours["counts"].encode("ascii")}) == mask).all()
    decoded = decode_rle(ours)
    assert decoded.dtype == np.bool_
    assert (decoded == mask).all()


def placed(x: slice, y: slice, width: int = 40, height: int = 30) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[y, x] = True
    return mask


ALL = slice(None)
NAMED = {
    "empty": placed(slice(0, 0), ALL),
    "full": placed(ALL, ALL),
    "first pixel": placed(slice(0, 1), slice(0, 1)),
    "last pixel": placed(slice(39, 40), slice(29, 30)),
    "inner box": placed(slice(7, 19), slice(5, 11)),
    "full-height band": placed(slice(7, 19), ALL),
    "top": placed(ALL, slice(0, 3)),
    "bottom": placed(ALL, slice(27, 30)),
    "top and bottom": placed(ALL, slice(0, 3)) | placed(ALL, slice(27, 30)),
    "one pixel picture": placed(ALL, ALL, 1, 1),
    "long runs": placed(slice(1500, 2900), ALL, 3000, 2000),
    "short after long": placed(slice(0, 1000), ALL, 1001, 900)
    | placed(slice(1000, 1001), slice(3, 4), 1001, 900),
}


@pytest.mark.parametrize("mask", NAMED.values(), ids=NAMED.keys())
def test_named_masks(mask: NDArray[np.bool_]) -> None:
    check(mask)


pixels = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=20))


@st.composite
def boxes_of_pixels(draw: st.DrawFn) -> NDArray[np.bool_]:
    """Long runs, whose differences need several characters and have either sign."""
    height, width = draw(st.tuples(st.integers(1, 400), st.integers(1, 400)))
    mask = np.zeros((height, width), dtype=np.bool_)
    for _ in range(draw(st.integers(1, 4))):
        x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        mask[y : draw(st.integers(y, height)), x : draw(st.integers(x, width))] ^= True
    return mask


masks = st.one_of(pixels, boxes_of_pixels())


@settings(max_examples=100)
@given(masks)
def test_any_mask(mask: NDArray[np.bool_]) -> None:
    check(mask)


@pytest.mark.long
@settings(max_examples=2000)
@given(masks)
def test_any_mask_long(mask: NDArray[np.bool_]) -> None:
    check(mask)


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"counts": "1"}, "size"),
        ({"size": [2], "counts": "4"}, "size"),
        ({"size": [2, -2], "counts": "4"}, "size"),
        ({"size": [2, 2]}, "counts"),
        ({"size": [2, 2], "counts": [4]}, "counts"),
        ({"size": [2, 2], "counts": "5"}, "counts: the runs"),
        ({"size": [2, 2], "counts": ""}, "counts: the runs"),
        ({"size": [2, 2], "counts": "O5"}, "counts: the runs"),  # -1, 5
        ({"size": [2, 2], "counts": "P"}, "counts: not"),  # a number that goes on after the end
        ({"size": [2, 2], "counts": "PPPPPPPPPPPPPPPP1"}, "counts: not"),
        ({"size": [2, 2], "counts": "é4"}, "counts: not"),
        ({"size": [2, 2], "counts": "4\n"}, "counts: not"),
    ],
)
def test_what_is_no_encoding_is_refused(rle: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_rle(rle)
