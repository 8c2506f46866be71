"""What is no whole picture is refused with a sentence that says so, and never decoded in part."""

from __future__ import annotations

import re
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import (
    FILES,
    NO_PICTURES,
    grey_tiff,
    png_of_rows,
    too_wide_samples,
    with_a_wrong_byte,
    with_wrong_checksum,
    zero_sized,
)
from PIL import Image

from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.inputs.pictures import decode_picture
from florence2_sam2.server.settings import Settings

SETTINGS = Settings()


def refusal(data: bytes, limits: Settings = SETTINGS, field: str = "image") -> str:
    with pytest.raises(InvalidRequest) as caught:
        decode_picture(data, limits, field)
    assert caught.value.field == field
    message = caught.value.message
    assert message.startswith(f"{field}: ")
    assert "\n" not in message
    assert "PIL" not in message
    assert "/" not in message
    return message


@pytest.mark.parametrize(("data", "words"), NO_PICTURES)
def test_what_is_no_picture_of_a_served_format(data: bytes, words: str) -> None:
    assert words in refusal(data)


@pytest.mark.parametrize("percent", [1, 10, 50, 90, 97])
@pytest.mark.parametrize("form", FILES)
def test_a_truncated_file_is_refused(form: str, percent: int) -> None:
    data = FILES[form]
    message = refusal(data[: len(data) * percent // 100])
    assert re.search("cut off|damaged", message)


@pytest.mark.parametrize("form", FILES)
def test_the_last_bytes_matter(form: str) -> None:
    """One byte less is refused, unless it is one that no pixel depends on."""
    whole = decode_picture(FILES[form], SETTINGS)
    for cut in range(1, 24):
        try:
            pixels = decode_picture(FILES[form][:-cut], SETTINGS)
        except InvalidRequest:
            continue
        assert np.array_equal(pixels, whole)


@pytest.mark.parametrize("chunk", [b"IHDR", b"PLTE", b"IDAT", b"IEND"])
def test_a_wrong_checksum_is_refused(chunk: bytes) -> None:
    assert f"checksum of chunk {chunk.decode()} is wrong" in refusal(with_wrong_checksum(chunk))


def test_a_changed_pixel_byte_is_refused_in_a_png() -> None:
    assert "checksum" in refusal(with_a_wrong_byte())


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("colour", [2, 6])
def test_a_png_whose_pixel_data_ends_early_is_refused(interlaced: bool, colour: int) -> None:
    assert "damaged" in refusal(png_of_rows(9, interlaced, colour))
    # The passes of an interlaced picture have more rows, and so more filter bytes.
    assert decode_picture(png_of_rows(11, interlaced, colour), SETTINGS).shape == (10, 10, 3)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "GIF", "TIFF"])
def test_a_size_of_zero_is_refused(form: str) -> None:
    assert "has no pixels" in refusal(zero_sized()[form])


def test_samples_that_eight_bits_cannot_show_are_refused() -> None:
    assert decode_picture(grey_tiff(), SETTINGS).shape == (8, 8, 3)
    for data in too_wide_samples().values():
        assert "float, signed or wide samples" in refusal(data)
    assert "colour space" in refusal(grey_tiff(photometric=8))


def test_a_lossless_jpeg_is_refused_by_name() -> None:
    data = FILES["JPEG"].replace(b"\xff\xc0", b"\xff\xc3", 1)
    assert "lossless" in refusal(data)


def test_sizes_over_a_limit_are_refused_with_the_limit() -> None:
    png = FILES["PNG"]  # 96×64
    assert decode_picture(png, Settings(max_pixels=96 * 64, max_side=96, max_image_bytes=len(png))).size
    message = refusal(png, Settings(max_pixels=96 * 64 - 1))
    assert "96×64" in message
    assert str(96 * 64 - 1) in message
    assert "95 a side" in refusal(png, Settings(max_side=95))
    message = refusal(png, Settings(max_image_bytes=len(png) - 1))
    assert f"{len(png)} bytes" in message
    assert f"up to {len(png) - 1}" in message


def test_the_limit_may_lie_above_pillows_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for form in ("JPEG", "PNG", "BMP", "GIF"):
        assert decode_picture(FILES[form], SETTINGS).shape == (64, 96, 3)


def test_the_message_names_the_field_that_was_used() -> None:
    assert refusal(b"", field="image_url").startswith("image_url: ")


@pytest.mark.parametrize("start", [2**32, 2**63, 2**64 - 1])
def test_a_bigtiffs_directory_beyond_the_file(start: int) -> None:
    data = bytearray(FILES["BigTIFF"])
    data[8:16] = struct.pack("<Q", start)
    assert "cut off" in refusal(bytes(data))


@settings(max_examples=300, deadline=2000)
@given(
    form=st.sampled_from(sorted(FILES)),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
    front=st.sampled_from([40, 400, 10**9]),
)
def test_a_damaged_file_is_decoded_or_refused(form: str, edits: list[tuple[float, int]], front: int) -> None:
    data = bytearray(FILES[form])
    for place, value in edits:
        data[int(place * min(front, len(data)))] = value
    try:
        pixels = decode_picture(bytes(data), SETTINGS)
    except InvalidRequest as error:
        assert error.message.startswith("image: ")
    else:
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3


@settings(max_examples=200, deadline=1000)
@given(
    start=st.sampled_from(
        [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8X", b"GIF89a", b"II*\0", b"BM"]
    ),
    rest=st.binary(max_size=200),
)
def test_random_bytes_are_refused(start: bytes, rest: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode_picture(start + rest, Settings(max_pixels=10_000))
