"""A caller's mistake is INVALID_ARGUMENT with the field's name, and nothing of the server's inside shows."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from drawn import SCENE, raw, segment, text
from tritonclient.utils import InferenceServerException

from florence2_sam2.client import InvalidRequest
from florence2_sam2.server.launch.embedded import EmbeddedServer

pytestmark = pytest.mark.server

PICTURE = {"image": text(SCENE)}
URL = text("data:image/png;base64,iVBORw0KGgo=")


def fp32(*values: float) -> tuple[str, Any]:
    return "FP32", np.array(values, np.float32)


def options(body: str) -> dict[str, Any]:
    return {**PICTURE, "options": text(body)}


THRESHOLDS = ("area_threshold", "confidence_threshold", "nms_threshold")

CASES: list[tuple[str, dict[str, Any], str]] = [
    ("no picture", {}, "image"),
    ("no picture but settings", {"area_threshold": fp32(0.5)}, "image"),
    ("two pictures", {**PICTURE, "image_url": URL}, "image"),
    ("an empty picture", {"image": text(b"")}, "image"),
    ("no picture at all", {"image": text(b"<html>not found</html>")}, "image"),
    ("half a picture", {"image": text(SCENE[: len(SCENE) // 2])}, "image"),
    ("two values", {"image": text(SCENE, SCENE)}, "image"),
    ("a wrong type", {"image": ("FP32", np.zeros(1, np.float32))}, "image"),
    ("a wrong rank", {"image": ("BYTES", text(SCENE)[1].reshape(1, 1))}, "image"),
    ("a broken data URL", {"image_url": text("data:image/png;base64,%%%")}, "image_url"),
    ("a data URL of text", {"image_url": text("data:text/plain;base64,aGFsbG8=")}, "image_url"),
    ("a file URL", {"image_url": text("file:///etc/passwd")}, "image_url"),
    ("a URL to this machine", {"image_url": text("http://127.0.0.1/a.png")}, "image_url"),
    ("invalid UTF-8", {**PICTURE, "caption": text(b"\xff\xfe")}, "caption"),
    ("a book", {**PICTURE, "caption": text("a dog " * 2000)}, "caption"),
    ("no object", options("[]"), "options"),
    ("no JSON", options("{"), "options"),
    ("an unknown option", options('{"colour": "red"}'), "options.colour"),
    ("an unknown format", options('{"formats": ["svg"]}'), "options.formats"),
    ("formats as a word", options('{"formats": "rle"}'), "options.formats"),
    ("an unknown view", options('{"view": "tiny"}'), "options.view"),
    ("an unknown nms", options('{"nms": "soft"}'), "options.nms"),
    ("an unknown task", options('{"task": "ocr"}'), "options.task"),
    ("no beams", options('{"num_beams": 0}'), "options.num_beams"),
    ("half a beam", options('{"num_beams": 1.5}'), "options.num_beams"),
    ("no tokens", options('{"max_new_tokens": 0}'), "options.max_new_tokens"),
    ("a flag as a number", options('{"normalized": 1}'), "options.normalized"),
    ("no phrase", options('{"phrases": []}'), "options.phrases"),
    ("a blank phrase", options('{"phrases": ["  "]}'), "options.phrases"),
    ("a box of three", options('{"boxes": [[1, 2, 3]]}'), "options.boxes[0]"),
    ("a box of NaN", options('{"boxes": [[1, 2, 3, NaN]]}'), "options"),
    ("a box of text", options('{"boxes": [[1, 2, 3, 4], "x"]}'), "options.boxes[1]"),
    ("caption and phrases", {**options('{"phrases": ["a dog"]}'), "caption": text("a dog")}, "options"),
    ("caption and boxes", {**options('{"boxes": []}'), "caption": text("a dog")}, "options"),
    ("phrases and boxes", options('{"phrases": ["a dog"], "boxes": []}'), "options"),
    ("caption and detection", {**options('{"task": "detection"}'), "caption": text("a dog")}, "options"),
    ("a mask as text", {**PICTURE, "output_mask": text("true")}, "output_mask"),
    ("a negative precision", {**PICTURE, "polygon_precision": fp32(-0.1)}, "polygon_precision"),
    ("an infinite precision", {**PICTURE, "polygon_precision": fp32(np.inf)}, "polygon_precision"),
    ("a threshold as FP64", {**PICTURE, "area_threshold": ("FP64", np.array([0.5]))}, "area_threshold"),
    ("two thresholds", {**PICTURE, "area_threshold": fp32(0.5, 0.5)}, "area_threshold"),
    ("no threshold", {**PICTURE, "area_threshold": fp32()}, "area_threshold"),
    *[
        (f"{name} {value}", {**PICTURE, name: fp32(value)}, name)
        for name in THRESHOLDS
        for value in (np.nan, np.inf, -np.inf, -0.01, 1.01)
    ],
]


@pytest.mark.parametrize(("tensors", "field"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_answer_names_the_field(server: EmbeddedServer, tensors: dict[str, Any], field: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        raw(server, tensors)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    message = caught.value.message()
    assert field in message
    assert "\n" not in message
    assert not re.search(r"Traceback|\.py|/(usr|root|home|tmp|dev|work)\b|shm|site-packages", message), (
        message
    )


def test_an_input_that_does_not_exist_is_refused(server: EmbeddedServer) -> None:
    with pytest.raises(InferenceServerException, match="area_treshold") as caught:
        raw(server, {**PICTURE, "area_treshold": fp32(0.5)})
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in THRESHOLDS for value in (0.0, 1.0)])
def test_the_ends_of_the_range_are_legal(server: EmbeddedServer, name: str, value: float) -> None:
    settings: dict[str, Any] = {name: value}
    assert segment(server, boxes=[], **settings).parameters[name] == value


def test_the_client_says_which_field(server: EmbeddedServer) -> None:
    with pytest.raises(InvalidRequest) as caught:
        segment(server, area_threshold=1.5)
    assert caught.value.field == "area_threshold"
    with pytest.raises(InvalidRequest) as caught:
        segment(server, boxes=[[0, 0, 1]])
    assert caught.value.field == "options.boxes[0]"


def test_a_wrong_request_leaves_the_server_well(server: EmbeddedServer) -> None:
    assert segment(server, boxes=[[20, 20, 80, 80]]).width == 200
