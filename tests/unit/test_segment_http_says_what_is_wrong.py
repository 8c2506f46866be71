"""The HTTP front refuses fields it does not know, by name, with a hint; the endpoint itself would ignore them."""

from __future__ import annotations

import base64
import json

import pytest

from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.segment.http import check_sources, decode_base64, refuse_unknown


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ("area_treshold", "did you mean area_threshold?"),
        ("image", "did you mean image_url?"),
        ("nms", "nms is a key of options"),
        ("colour", "the fields are image_base64, image_url, caption,"),
    ],
)
@pytest.mark.parametrize("as_text", [True, False], ids=["as Triton gives them", "as a mapping"])
def test_unknown_fields(field: str, hint: str, as_text: bool) -> None:
    parameters = {field: 1}
    with pytest.raises(InvalidRequest) as refused:
        refuse_unknown(json.dumps(parameters) if as_text else parameters)
    assert refused.value.field == field
    assert hint in refused.value.message


@pytest.mark.parametrize("parameters", [None, "", "{}", {}])
def test_no_unknown_field(parameters: object) -> None:
    refuse_unknown(parameters)  # type: ignore[arg-type]


def test_one_picture() -> None:
    check_sources(["image_base64", "caption"])
    check_sources(["image_url"])
    for given in ([], ["caption"], ["image_base64", "image_url"]):
        with pytest.raises(InvalidRequest, match="exactly one of image_base64 and image_url"):
            check_sources(given)


def test_base64_with_line_breaks() -> None:
    data = bytes(range(256))
    assert decode_base64(base64.encodebytes(data), 256) == data
    for wrong in (b"a", b"data:image/png;base64,AAAA", b"-_-_"):
        with pytest.raises(InvalidRequest, match="image_base64: this is no base64"):
            decode_base64(wrong, 256)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 255, 256, 257])
def test_the_byte_limit_is_that_of_what_base64_stands_for(size: int) -> None:
    encoded = base64.encodebytes(bytes(size))
    assert len(decode_base64(encoded, size)) == size
    with pytest.raises(InvalidRequest, match=f"image_base64: it stands for more than the {size - 1} bytes"):
        decode_base64(encoded, size - 1)
