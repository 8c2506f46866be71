"""Whatever a caller can get wrong in a `segment` request is refused with the name of the field."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.segment.request import Options, parse_options, parse_request
from florence2_sam2.server.settings import Settings

SETTINGS = Settings()


def fp32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_defaults() -> None:
    request = parse_request({"image": b"picture"}, SETTINGS)
    assert (request.area_threshold, request.confidence_threshold, request.nms_threshold) == (0.3, 0.5, 0.5)
    assert request.polygon_precision == 0.001
    assert not request.output_mask
    assert request.caption == ""
    assert request.options == Options()


@pytest.mark.parametrize(
    ("inputs", "field", "part"),
    [
        ({}, "image", "neither was given"),
        ({"image": b"x", "image_url": b"http://a/b"}, "image", "both were given"),
        ({"image": b"x", "caption": b"\xff\xfe"}, "caption", "UTF-8"),
        ({"image": b"x", "caption": b"a" * 10_000}, "caption", "10000 bytes, the limit is 4096"),
        ({"image": b"x", "area_threshold": fp32(float("nan"))}, "area_threshold", "got nan"),
        ({"image": b"x", "area_threshold": fp32(float("inf"))}, "area_threshold", "got inf"),
        ({"image": b"x", "confidence_threshold": fp32(-0.1)}, "confidence_threshold", "got -0.1"),
        ({"image": b"x", "nms_threshold": fp32(1.01)}, "nms_threshold", "got 1.01"),
        ({"image": b"x", "nms_threshold": fp32(0.1, 0.2)}, "nms_threshold", "shape [2]"),
        ({"image": b"x", "polygon_precision": fp32(-1)}, "polygon_precision", "at least 0"),
        ({"image": b"x", "polygon_precision": fp32(float("inf"))}, "polygon_precision", "at least 0"),
        ({"image": b"x", "options": b"[1]"}, "options", "not a list"),
        ({"image": b"x", "options": b"null"}, "options", "not null"),
        ({"image": b"x", "options": b"{"}, "options", "no JSON object"),
        ({"image": b"x", "options": b"[" * 100_000}, "options", "nested too deeply"),
        ({"image": b"x", "options": b'{"tiles": NaN}'}, "options", "NaN is not allowed"),
        (
            {"image": b"x", "options": b'{"colour": 1}'},
            "options.colour",
            "unknown key; the keys are formats,",
        ),
        # Half a surrogate pair could not be sent back, a NUL would end the message, a line break make two of it.
        (
            {"image": b"x", "options": b'{"a\\ud800\\u0000\\nb": 1}'},
            "options.a\ufffd\ufffd\ufffdb",
            "unknown key",
        ),
        ({"image": b"x", "options": b'{"tiles": -' + b"9" * 4000 + b"}"}, "options.tiles", "got -99999"),
        ({"image": b"x", "options": b'{"view": "wide"}'}, "options.view", "one of full, compact"),
        ({"image": b"x", "options": b'{"nms": 1}'}, "options.nms", "one of box, mask, containment"),
        ({"image": b"x", "options": b'{"formats": "rle"}'}, "options.formats", "a list of rle"),
        ({"image": b"x", "options": b'{"formats": ["png"]}'}, "options.formats", 'got "png"'),
        ({"image": b"x", "options": b'{"phrases": []}'}, "options.phrases", "at least one"),
        ({"image": b"x", "options": b'{"phrases": [" "]}'}, "options.phrases", "not blank"),
        ({"image": b"x", "options": b'{"boxes": [[1, 2, 3]]}'}, "options.boxes[0]", "four finite numbers"),
        (
            {"image": b"x", "options": b'{"boxes": [[1, 2, 3, true]]}'},
            "options.boxes[0]",
            "four finite numbers",
        ),
        (
            {"image": b"x", "options": b'{"boxes": [[1, 2, 3, 1e400]]}'},
            "options.boxes[0]",
            "four finite numbers",
        ),
        ({"image": b"x", "options": b'{"num_beams": 0}'}, "options.num_beams", "from 1 to 8"),
        ({"image": b"x", "options": b'{"num_beams": true}'}, "options.num_beams", "not a boolean"),
        ({"image": b"x", "options": b'{"max_new_tokens": 1.5}'}, "options.max_new_tokens", "not a number"),
        ({"image": b"x", "options": b'{"invert_mask": 1}'}, "options.invert_mask", "true or false"),
        ({"image": b"x", "options": b'{"reduced_decode": 1}'}, "options.reduced_decode", "true or false"),
        ({"image": b"x", "options": b'{"tiles": 9}'}, "options.tiles", "from 1 to 4"),
        ({"image": b"x", "options": b'{"priority": "high"}'}, "options.priority", "interactive, bulk"),
        (
            {"image": b"x", "caption": b"a cat", "options": b'{"task": "detection"}'},
            "options",
            "caption and options.task",
        ),
        (
            {"image": b"x", "options": b'{"boxes": [], "phrases": ["a"]}'},
            "options",
            "options.phrases and options.boxes",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_mistakes_name_their_field(inputs: dict, field: str, part: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_request(inputs, SETTINGS)
    assert refused.value.field == field
    assert part in refused.value.message
    assert len(refused.value.message) < 300
    assert refused.value.message.isprintable()


def test_whole_number_message_for_fractions() -> None:
    with pytest.raises(InvalidRequest, match="a whole number of at least 1 is needed"):
        parse_options('{"max_new_tokens": 2.5}', SETTINGS)


def test_box_limit() -> None:
    boxes = json.dumps({"boxes": [[0, 0, 1, 1]] * 3})
    assert len(parse_options(boxes, Settings(max_boxes=3)).boxes or ()) == 3
    with pytest.raises(InvalidRequest, match="3 boxes are over the limit of 2"):
        parse_options(boxes, Settings(max_boxes=2))


@given(st.integers(0, 1000))
def test_thresholds_are_the_decimals_that_were_written(thousandths: int) -> None:
    threshold = thousandths / 1000
    request = parse_request({"image": b"x", "area_threshold": fp32(threshold)}, SETTINGS)
    assert request.area_threshold == threshold


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_any_json_is_read_or_refused(value: object) -> None:
    try:
        options = parse_options(json.dumps(value), SETTINGS)
    except InvalidRequest as refused:
        assert refused.field.startswith("options")
    else:
        assert options == Options()  # only the empty object is right by chance
