"""A mask's PNG is that mask, in mode L with 0 and 255."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from florence2_sam2.server.inputs.pictures import data_url, decode_picture, encode_png_mask
from florence2_sam2.server.settings import Settings


@settings(max_examples=200)
@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.02, 0.5, 1.0])
)
def test_the_png_holds_the_mask(height: int, width: int, seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    png = encode_png_mask(mask)
    image = Image.open(io.BytesIO(png))
    assert (image.format, image.mode, image.size) == ("PNG", "L", (width, height))
    assert np.array_equal(np.asarray(image), mask * np.uint8(255))
    assert np.array_equal(decode_picture(png, Settings())[..., 0] > 0, mask)


def test_other_programs_read_it() -> None:
    import cv2

    mask = np.zeros((300, 400), bool)
    mask[40:200, 30:390] = True
    decoded = cv2.imdecode(np.frombuffer(encode_png_mask(mask), np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, mask * np.uint8(255))


@pytest.mark.parametrize("order", ["C", "F"])
def test_any_memory_layout(order: str) -> None:
    mask = np.zeros((30, 40), bool, order=order)  # type: ignore[call-overload]
    mask[3:20, 10:25] = True
    for view in (mask, mask[::-1], mask[:, ::2], mask.T):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png_mask(view)))) > 0, view)


def test_a_smooth_mask_is_small() -> None:
    rows, columns = np.indices((1000, 1500))
    disc = (rows - 500) ** 2 + (columns - 700) ** 2 < 400**2
    assert len(encode_png_mask(disc)) < 15_000


def test_the_data_url_holds_the_png() -> None:
    assert data_url(b"\x89PNG") == "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()
