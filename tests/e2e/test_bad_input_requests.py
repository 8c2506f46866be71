"""Requests of a wrong form (no picture, two, types, shapes, options) are refused over gRPC and HTTP, with the field."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from bad_input import Caller, Inputs, answered, refused
from drawn import SCENE, text

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("watched")]

PICTURE: Inputs = {"image": SCENE}
URL = "data:image/png;base64," + base64.b64encode(SCENE).decode()
ENCODED = base64.b64encode(SCENE).decode()
NOTHING = {"boxes": []}  # asks nothing of the models


def options(body: Any) -> dict[str, Any]:
    return {"image": SCENE, "options": body}


OURS: list[tuple[str, Inputs, str, str]] = [
    ("no picture", {}, "image", "exactly one of"),
    ("settings alone", {"area_threshold": 0.5, "options": NOTHING}, "image", "neither was given"),
    ("two pictures", {**PICTURE, "image_url": URL}, "image", "both were given"),
    ("an empty URL", {"image_url": ""}, "image_url", ""),
    ("a blank URL", {"image_url": " \n"}, "image_url", ""),
    ("a URL that is none", {"image_url": "scene.png"}, "image_url", ""),
    ("a file URL", {"image_url": "file:///etc/passwd"}, "image_url", ""),
    ("a URL to this machine", {"image_url": "http://127.0.0.1/a.png"}, "image_url", ""),
    ("a broken data URL", {"image_url": "data:image/png;base64,%%%"}, "image_url", "base64"),
    ("a data URL of text", {"image_url": "data:text/plain;base64,aGFsbG8="}, "image_url", "picture"),
    ("a data URL of no picture", {"image_url": "data:image/png;base64,aGFsbG8="}, "image_url", "send a JPEG"),
    ("a URL that is no text", {"image_url": b"\xff\xfe"}, "image_url", "UTF-8"),
    ("a list of options", options("[]"), "options", "not a list"),
    ("null", options("null"), "options", "not null"),
    ("a number", options("1"), "options", "not a number"),
    ("a text", options('"tiles"'), "options", "not a text"),
    ("true", options("true"), "options", "not a boolean"),
    ("no JSON", options("{"), "options", "no JSON object"),
    ("two objects", options("{} {}"), "options", "no JSON object"),
    ("single quotes", options("{'tiles': 2}"), "options", "no JSON object"),
    ("a deep nest", options("[" * 100_000), "options", "nested too deeply"),
    ("a deep nest within", options('{"tiles": ' + "[" * 50_000), "options", "nested too deeply"),
    ("NaN", options('{"tiles": NaN}'), "options", "NaN is not allowed"),
    ("a number of 5000 digits", options('{"tiles": ' + "9" * 5000 + "}"), "options", "no JSON object"),
    ("invalid UTF-8", options(b'{"view": "\xff"}'), "options", "UTF-8"),
    ("an unknown key", options({"colour": 1}), "options.colour", "the keys are formats,"),
    ("a setting of its own", options({"area_threshold": 0.5}), "options.area_threshold", "unknown key"),
    ("a key in another case", options({"Tiles": 2}), "options.Tiles", "unknown key"),
    ("no key", options({"": 1}), "options.", "unknown key"),
    ("a long key", options({"x" * 100_000: 1}), "options.xxxxx", "unknown key"),
    ("a key of half a character", options('{"\\ud800": 1}'), "options.", "unknown key"),
    ("a key with a NUL", options('{"a\\u0000b": 1}'), "options.a", "unknown key"),
    ("a key of two lines", options('{"a\\nb": 1}'), "options.a", "unknown key"),
]

TWO = np.array([0.5, 0.5], np.float32)
ONE = np.array([0.5], np.float32)
EMPTY = np.zeros(0, np.float32)
NUMBERS = ("area_threshold", "confidence_threshold", "nms_threshold", "polygon_precision")
TEXTS = ("image_url", "caption", "options")


def bytes_of(shape: tuple[int, ...]) -> tuple[str, Any]:
    return "BYTES", text(*[b"{}"] * int(np.prod(shape)))[1].reshape(shape)


# What Triton checks before a model sees it: types and shapes. Its words begin with something else, but have the name.
TRITONS: list[tuple[str, Inputs, str]] = [
    ("image as FP32", {"image": ("FP32", ONE)}, "image"),
    ("image as pixels", {"image": ("UINT8", np.zeros((8, 8, 3), np.uint8))}, "image"),
    *[(f"image of shape {list(s)}", {"image": bytes_of(s)}, "image") for s in [(2,), (0,), (1, 1)]],
    *[(f"{name} as INT32", {**PICTURE, name: ("INT32", np.ones(1, np.int32))}, name) for name in TEXTS],
    *[(f"two of {name}", {**PICTURE, name: bytes_of((2,))}, name) for name in TEXTS],
    *[(f"{name} of rank 2", {**PICTURE, name: bytes_of((1, 1))}, name) for name in TEXTS],
    *[(f"{name} as FP64", {**PICTURE, name: ("FP64", np.array([0.5]))}, name) for name in NUMBERS],
    *[(f"{name} as text", {**PICTURE, name: "0.5"}, name) for name in NUMBERS],
    *[(f"two of {name}", {**PICTURE, name: ("FP32", TWO)}, name) for name in NUMBERS],
    *[(f"none of {name}", {**PICTURE, name: ("FP32", EMPTY)}, name) for name in NUMBERS],
    *[
        (f"{name} of rank 0", {**PICTURE, name: ("FP32", np.array(0.5, np.float32))}, name)
        for name in NUMBERS
    ],
    *[(f"{name} of rank 2", {**PICTURE, name: ("FP32", ONE.reshape(1, 1))}, name) for name in NUMBERS],
    ("a mask as text", {**PICTURE, "output_mask": "true"}, "output_mask"),
    ("a mask as a number", {**PICTURE, "output_mask": 1.0}, "output_mask"),
    ("two masks", {**PICTURE, "output_mask": ("BOOL", np.ones(2, bool))}, "output_mask"),
    ("an unknown input", {**PICTURE, "area_treshold": 0.5}, "area_treshold"),
    ("HTTP's input", {"image_base64": ENCODED}, "image_base64"),
]


@pytest.mark.parametrize(
    ("inputs", "field", "words"), [case[1:] for case in OURS], ids=[case[0] for case in OURS]
)
def test_the_model_names_the_field(caller: Caller, inputs: Inputs, field: str, words: str) -> None:
    for way, reply in caller.both(inputs).items():
        named = "image_base64" if (way, field) == ("http", "image") else field
        assert (reply.code, reply.message.startswith(named)) == ("INVALID_ARGUMENT", True), (way, reply)
        assert words in reply.message, (way, reply)


@pytest.mark.parametrize(
    ("inputs", "field"), [case[1:] for case in TRITONS], ids=[case[0] for case in TRITONS]
)
def test_triton_names_the_input(caller: Caller, inputs: Inputs, field: str) -> None:
    reply = caller.over_grpc(inputs)
    assert reply.code == "INVALID_ARGUMENT", reply
    assert f"'{field}'" in reply.message or f"{field}: " in reply.message, reply


# Bodies of HTTP that no gRPC call can be: JSON's own types.
BODIES: list[tuple[str, dict[str, Any], str]] = [
    ("two pictures in a list", {"image_base64": [ENCODED, ENCODED]}, "image_base64"),
    ("no picture in a list", {"image_base64": []}, "image_base64"),
    ("no base64", {"image_base64": "%%%"}, "image_base64"),
    ("base64 that is cut off", {"image_base64": ENCODED[:-3]}, "image_base64"),
    ("base64 for URLs", {"image_base64": "_-_-"}, "image_base64"),
    ("a data URL as base64", {"image_base64": URL}, "image_base64"),
    ("base64 with accents", {"image_base64": "äöü="}, "image_base64"),
    ("gRPC's field", {"image": ENCODED}, "image"),
    ("two captions", {"image_base64": ENCODED, "caption": ["a", "b"]}, "caption"),
    ("two thresholds", {"image_base64": ENCODED, "area_threshold": [0.5, 0.5]}, "area_threshold"),
    ("no threshold in a list", {"image_base64": ENCODED, "area_threshold": []}, "area_threshold"),
    ("an option beside the others", {"image_base64": ENCODED, "tiles": 2}, "tiles"),
    ("an option that Triton knows", {"image_base64": ENCODED, "priority": "bulk"}, "priority"),
    ("Triton's timeout", {"image_base64": ENCODED, "timeout": 5}, "timeout"),
    ("a misspelt field", {"image_base64": ENCODED, "area_treshold": 0.5}, "area_treshold"),
    ("an unknown field of null", {"image_base64": ENCODED, "colour": None}, "colour"),
    ("an unknown field that is an object", {"image_base64": ENCODED, "colour": {"red": 1}}, "colour"),
    ("an unknown field that is a list", {"image_base64": ENCODED, "colour": [1]}, "colour"),
    ("a field of two lines", {"image_base64": ENCODED, "a\nb\x7f": 1}, "a\ufffdb\ufffd"),
]


@pytest.mark.parametrize(("body", "field"), [case[1:] for case in BODIES], ids=[case[0] for case in BODIES])
def test_http_names_the_field(caller: Caller, body: dict[str, Any], field: str) -> None:
    reply = caller.post(json.dumps(body).encode())
    assert reply.code == "INVALID_ARGUMENT", reply
    assert field in reply.message, reply


# What Triton's endpoint cannot make a tensor of never reaches a model. It answers 500, and names no field.
OTHER_TYPES: list[dict[str, Any]] = [
    {"image_base64": 5},
    {"image_base64": True},
    {"image_base64": {"bytes": ENCODED}},
    {"image_base64": ENCODED, "caption": 5},
    {"image_base64": ENCODED, "caption": None},
    {"image_base64": ENCODED, "area_threshold": "0.5"},
    {"image_base64": ENCODED, "area_threshold": True},
    {"image_base64": ENCODED, "output_mask": "true"},
    {"image_base64": ENCODED, "output_mask": 1},
    {"image_base64": ENCODED, "options": {"tiles": 2}},
]


@pytest.mark.parametrize(
    "body", OTHER_TYPES, ids=lambda body: ", ".join(body) + " " + str([*body.values()][-1])[:20]
)
def test_another_json_type_is_said_to_be_one(caller: Caller, body: dict[str, Any]) -> None:
    reply = caller.post(json.dumps(body).encode())
    assert reply.code == "HTTP 500", reply
    assert "Unable to parse" in reply.message, reply
    assert "attempt to access JSON non-" in reply.message, reply


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"image",
        b"{} {}",
        b"{'caption': 'a'}",
        b'{"caption": "\\ud800"}',
        b"\0" * 64,
    ],
)
def test_a_body_that_is_no_json_is_said_to_be_none(caller: Caller, body: bytes) -> None:
    reply = caller.post(body)
    assert reply.code == "HTTP 500", reply
    no_json = "failed to parse the request JSON buffer" in reply.message
    assert no_json or reply.message == "attempt to get members for non-object", reply


@pytest.mark.parametrize("body", ["", " ", "{}", b"{ }\n", {}], ids=repr)
def test_options_may_be_empty(caller: Caller, body: Any) -> None:
    answered(caller.both({**options(body), "caption": "a red ball"}))


def test_of_a_key_that_stands_twice_the_last_one_counts(caller: Caller) -> None:
    """As JSON's readers do nearly everywhere; here so that it is not changed by chance."""
    reply = answered(caller.both(options('{"boxes": [[1, 2, 3]], "boxes": [], "view": "full"}')))
    assert reply.result["parameters"]["boxes"] == []


def test_a_mistake_in_an_option_names_the_option(caller: Caller) -> None:
    refused(caller.both(options({"boxes": [[0, 0, 1, 1], [1, 2, 3]]})), "options.boxes[1]", "four finite")
    long = {"max_new_tokens": -(10**4000)}
    refused(caller.both(options(json.dumps(long))), "options.max_new_tokens", "at least 1")
