"""`data:` URLs give the bytes they hold, or a sentence about what is wrong with them."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.inputs.data_url import decode_data_url
from florence2_sam2.server.settings import Settings


@given(st.binary(min_size=1, max_size=100), st.sampled_from(["image/png", "image/jpeg", "IMAGE/SVG+xml", ""]))
def test_what_was_encoded_comes_back(data: bytes, kind: str) -> None:
    text = base64.b64encode(data).decode()
    for body in (text, text.rstrip("="), text.replace("+", "%2B").replace("=", "%3D"), "\n".join(text)):
        assert decode_data_url(f"data:{kind};base64,{body}", Settings()) == data


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("data:", "of the form data:image/jpeg;base64,"),
        ("data:image/png;base64", "of the form"),
        ("data:image/png,AAAA", "of the form"),
        ("data:text/html;base64,AAAA", "another kind than a picture"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png;base64,%%%", "no base64"),
        ("data:image/png;base64,AAAAA", "no base64"),
        ("data:image/png;base64,AA-_", "no base64"),
        ("data:image/png;base64,äöü", "no base64"),
        ("data:image/png;" + "a=b;" * 1000 + "base64,AAAA", "of the form"),
    ],
)
def test_what_is_wrong_is_said(url: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^image_url: ") as caught:
        decode_data_url(url, Settings())
    assert words in caught.value.message


def test_parameters_before_the_encoding_are_ignored() -> None:
    assert decode_data_url("data:image/png;name=a.png;charset=utf-8;base64,AAAA", Settings()) == b"\0\0\0"


def test_the_byte_limit_holds() -> None:
    limits = Settings(max_image_bytes=300)
    assert len(decode_data_url("data:image/png;base64," + "A" * 400, limits)) == 300
    for length in (404, 100_000):
        with pytest.raises(InvalidRequest, match="more than the 300 bytes"):
            decode_data_url("data:image/png;base64," + "A" * length, limits)
