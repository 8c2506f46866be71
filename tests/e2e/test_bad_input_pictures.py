"""What is no whole picture is refused by name, as bytes, as base64 and as a data URL, and nobody else notices."""

from __future__ import annotations

import base64

import pytest
from bad_input import Caller, answered, refused
from drawn import scene
from picture_files import (
    FILES,
    NO_PICTURES,
    encoded,
    png_of_rows,
    too_wide_samples,
    with_a_wrong_byte,
    with_wrong_checksum,
    zero_sized,
)

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("watched")]

NAMED = dict(zip(["empty", *(f"number {n}" for n in range(1, len(NO_PICTURES)))], NO_PICTURES, strict=True))
JPEG = encoded(scene(), "JPEG")
ODD_BYTES = {  # ends of parts of files
    "one byte of a JPEG": (JPEG[:1], "send a JPEG"),
    "two bytes of a JPEG": (JPEG[:2], "send a JPEG"),
    "a JPEG's header": (JPEG[:20], "cut off"),
    "a PNG's signature": (FILES["PNG"][:8], "header chunk is missing"),
    "a JPEG's end": (JPEG[-200:], "send a JPEG"),
    "a picture after a space": (b" " + JPEG, "send a JPEG"),
    "a picture twice encoded": (base64.b64encode(JPEG), "base64"),
}


def refused_everywhere(caller: Caller, data: bytes, *words: str) -> None:
    """As bytes, as base64 over HTTP, and as a data URL over both."""
    refused(caller.both({"image": data}), "image", *words)
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    # A data URL of nothing is refused before there is a picture, in other words.
    refused(caller.both({"image_url": url}), "image_url", *(words if data else ("empty",)))


@pytest.mark.parametrize("name", NAMED)
def test_what_is_no_picture_of_a_served_format(caller: Caller, name: str) -> None:
    refused_everywhere(caller, *NAMED[name])


@pytest.mark.parametrize("name", ODD_BYTES)
def test_parts_of_pictures(caller: Caller, name: str) -> None:
    refused_everywhere(caller, *ODD_BYTES[name])


@pytest.mark.parametrize("percent", [10, 50, 90])
@pytest.mark.parametrize("form", FILES)
def test_a_truncated_file(caller: Caller, form: str, percent: int) -> None:
    data = FILES[form]
    replies = caller.both({"image": data[: len(data) * percent // 100]})
    refused(replies, "image")
    assert "cut off" in replies["grpc"].message or "damaged" in replies["grpc"].message
    assert answered(caller.both({"image": data, "options": {"boxes": []}})).result["image"]["width"] == 96


@pytest.mark.parametrize("chunk", [b"IHDR", b"PLTE", b"IDAT", b"IEND"])
def test_a_wrong_checksum(caller: Caller, chunk: bytes) -> None:
    refused_everywhere(caller, with_wrong_checksum(chunk), f"checksum of chunk {chunk.decode()} is wrong")


def test_a_wrong_bit(caller: Caller) -> None:
    refused_everywhere(caller, with_a_wrong_byte(), "checksum")


@pytest.mark.parametrize("interlaced", [False, True])
def test_too_few_rows(caller: Caller, interlaced: bool) -> None:
    refused_everywhere(caller, png_of_rows(9, interlaced), "damaged")


@pytest.mark.parametrize("form", zero_sized())
def test_a_size_of_zero(caller: Caller, form: str) -> None:
    refused_everywhere(caller, zero_sized()[form], "has no pixels")


@pytest.mark.parametrize("kind", too_wide_samples())
def test_samples_that_eight_bits_cannot_show(caller: Caller, kind: str) -> None:
    refused_everywhere(caller, too_wide_samples()[kind], "float, signed or wide samples")


def test_the_same_bytes_are_refused_the_same_each_time(caller: Caller) -> None:
    """Nothing is remembered of a broken picture: not as a picture, and not that it was one."""
    half = JPEG[: len(JPEG) // 2]
    messages = {caller.over_grpc({"image": half}).message for _ in range(3)}
    assert len(messages) == 1
    assert caller.over_grpc({"image": JPEG, "options": {"boxes": []}}).code == "OK"
    assert {caller.over_grpc({"image": half}).message} == messages
