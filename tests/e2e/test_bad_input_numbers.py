"""Thresholds and precisions at and beyond their ends, over gRPC and HTTP."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
from bad_input import Caller, Reply, answered, refused
from drawn import DISC, OFF, SCENE, SQUARE

from florence2_sam2.client import Segmentation

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("watched")]

THRESHOLDS = ("area_threshold", "confidence_threshold", "nms_threshold")
# Two boxes that share much of their area, and one apart.
BOXES = {"boxes": [DISC, [30, 20, 80, 80], SQUARE]}


def ask(caller: Caller, **settings: Any) -> Reply:
    return answered(caller.both({"image": SCENE, "options": BOXES, **OFF, **settings}))


BEYOND = [
    float("nan"),
    float("inf"),
    float("-inf"),
    -0.01,
    -1e-45,
    -3e38,
    1.01,
    np.nextafter(np.float32(1), np.float32(2)),
    3e38,
]


@pytest.mark.parametrize("value", BEYOND, ids=str)
@pytest.mark.parametrize("name", THRESHOLDS)
def test_a_threshold_beyond_its_ends(caller: Caller, name: str, value: Any) -> None:
    refused(caller.both({"image": SCENE, name: float(value)}), name, "a number from 0 to 1 is needed, got ")


@pytest.mark.parametrize("name", THRESHOLDS)
def test_more_than_float32_can_hold(caller: Caller, name: str) -> None:
    for body in (b"1e39", b"-1e39", b"1e400"):
        reply = caller.post(b'{"image_base64": "AAAA", "%s": %s}' % (name.encode(), body))
        assert reply.code in ("INVALID_ARGUMENT", "HTTP 500"), reply
        assert name in reply.message or "JSON" in reply.message, reply


@pytest.mark.parametrize(
    "value", [0.0, -0.0, 1e-45, 1.0, float(np.nextafter(np.float32(1), np.float32(0)))], ids=str
)
@pytest.mark.parametrize("name", THRESHOLDS)
def test_a_threshold_at_its_ends(caller: Caller, name: str, value: float) -> None:
    shown = answered(caller.both({"image": SCENE, "options": {"boxes": []}, name: value})).result[
        "parameters"
    ][name]
    assert np.float32(shown) == np.float32(value)


def reasons(reply: Reply) -> list[str]:
    return [item["reason"] for item in reply.result["filtered"]]


def test_area_0_leaves_nothing_and_1_everything(caller: Caller) -> None:
    assert reasons(ask(caller, area_threshold=0.0)) == ["area"] * 3
    assert reasons(ask(caller, area_threshold=1.0)) == []
    whole = {"boxes": [[0, 0, 200, 100]]}
    assert reasons(ask(caller, area_threshold=1.0, options=whole)) == []


def test_confidence_0_leaves_everything_and_1_only_the_sure(caller: Caller) -> None:
    assert reasons(ask(caller, confidence_threshold=0.0)) == []
    strict = ask(caller, confidence_threshold=1.0)
    assert set(reasons(strict)) == {"confidence"}
    assert all(item["score"] < 1 for item in strict.result["filtered"])
    assert all(item["score"] == 1 for item in strict.result["objects"])


def test_nms_0_leaves_what_does_not_touch_and_1_everything(caller: Caller) -> None:
    strict = ask(caller, nms_threshold=0.0)
    assert reasons(strict) == ["nms"]
    assert [item["box"] for item in strict.result["objects"]][-1] == SQUARE
    equal = {"boxes": [DISC, DISC, DISC]}
    assert reasons(ask(caller, nms_threshold=1.0, options=equal)) == []
    assert reasons(ask(caller, nms_threshold=1.0, options={**equal, "nms": "mask"})) == []
    assert reasons(ask(caller, nms_threshold=1.0, options={**equal, "nms": "containment"})) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), -1e-45, -0.001, -3e38], ids=str)
def test_a_precision_beyond_its_end(caller: Caller, value: float) -> None:
    refused(caller.both({"image": SCENE, "polygon_precision": value}), "polygon_precision", "at least 0")


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, 1e-6, 0.5, 1.0, 1e6, 3e38], ids=str)
@pytest.mark.parametrize("normalized", [False, True])
def test_polygons_at_any_precision(caller: Caller, value: float, normalized: bool) -> None:
    """From boxes around things, around nothing, and of a pixel; never a polygon of fewer than three points."""
    boxes = np.array([DISC, SQUARE, [0, 0, 200, 100], [3, 3, 4, 4], [90, 0, 200, 30]], float)
    if normalized:
        boxes /= [200, 100, 200, 100]
    options = {"boxes": boxes.tolist(), "normalized": normalized, "formats": ["rle", "geojson"]}
    reply = ask(caller, polygon_precision=value, options=options)
    assert len(reply.result["objects"]) >= 3
    for item in Segmentation.from_json(reply.result).objects:
        assert item.polygons
        for part in item.polygons:
            for ring in (part.exterior, *part.holes):
                assert len(set(ring)) >= 3
        parts = shapely.MultiPolygon([(part.exterior, part.holes) for part in item.polygons])
        assert parts.is_valid
        assert parts.area > 0
        if value in (0.0, 1e-45) and not normalized:
            assert parts.area == item.mask_area
    for feature in reply.result["geojson"]["features"]:
        assert all(len(ring) >= 4 for rings in feature["geometry"]["coordinates"] for ring in rings)
