"""None, none left, very many, and impossible boxes: each is answered for, in every form of the answer."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from bad_input import Caller, Reply, answered, refused
from drawn import DISC, HEIGHT, OFF, SCENE, SQUARE, WIDTH
from PIL import Image

from florence2_sam2.client import Segmentation

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("watched")]


def ask(caller: Caller, boxes: list[Any], **settings: Any) -> Reply:
    options = {"boxes": boxes, **settings.pop("options", {})}
    return answered(caller.both({"image": SCENE, **OFF, **settings, "options": options}))


def reasons(reply: Reply) -> list[str]:
    return [item["reason"] for item in reply.result["filtered"]]


NOTHING: dict[str, tuple[list[Any], dict[str, Any], set[str]]] = {
    "no boxes": ([], {}, set()),
    "none after the area filter": ([DISC, SQUARE], {"area_threshold": 0.0}, {"area"}),
    "none after the confidence filter": ([DISC, SQUARE], {"confidence_threshold": 1.0}, {"confidence"}),
    "none with an area": ([[50, 50, 50, 80], [300, 0, 400, 50], [40, 40, 20, 20]], {}, {"degenerate_box"}),
    "some by each": (
        [[0, 0, 200, 100], [9, 9, 9, 9], DISC],
        {"area_threshold": 0.5, "confidence_threshold": 1.0},
        {"area", "degenerate_box", "confidence"},
    ),
}
FORMS: dict[str, dict[str, Any]] = {
    "polygons": {},
    "every format": {"options": {"formats": ["rle", "coco", "geojson", "masks", "preview"]}},
    "compact": {"options": {"view": "compact", "formats": ["rle", "masks"]}},
    "a mask": {"output_mask": True},
    "an inverted mask": {"output_mask": True, "options": {"invert_mask": True}},
    "fractions": {"options": {"normalized": True}},
    "nms of masks": {"options": {"nms": "mask"}},
    "containment": {"options": {"nms": "containment"}},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NOTHING)
def test_nothing_left_is_a_success(caller: Caller, name: str, form: str) -> None:
    boxes, settings, why = NOTHING[name]
    if form == "fractions":
        boxes = (np.array(boxes, float).reshape(-1, 4) / [WIDTH, HEIGHT, WIDTH, HEIGHT]).tolist()
    reply = ask(caller, boxes, **settings, **FORMS[form])
    assert set(reasons(reply)) == why
    assert len(reply.result["filtered"]) == len(boxes)
    assert reply.arrays["boxes"].shape == (0, 4)
    assert reply.arrays["scores"].shape == reply.arrays["labels"].shape == (0,)
    result = Segmentation.from_json(reply.result)
    assert result.objects == ()
    assert json.loads(json.dumps(reply.result, allow_nan=False)) == reply.result
    if "mask" in form and "nms" not in form:
        pixels = np.asarray(Image.open(io.BytesIO(reply.arrays["mask_png"][0])))
        assert (pixels == (255 if form == "an inverted mask" else 0)).all()
    if form == "every format":
        assert (reply.result["coco"]["annotations"], reply.result["geojson"]["features"]) == ([], [])


def test_nothing_that_florence2_finds_is_a_success_too(caller: Caller) -> None:
    """One token is room for no box, and a caption of one token names nothing."""
    for inputs in (
        {},
        {"options": {"max_new_tokens": 1, "phrases": ["a dog"]}},
        {"options": {"max_new_tokens": 1}},
    ):
        flat = np.full((40, 60, 3), 128, np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(flat).save(buffer, "PNG")
        reply = answered(caller.both({"image": buffer.getvalue(), **inputs}))
        if inputs:
            assert reply.found == []


def grid(count: int) -> list[list[float]]:
    """So many different boxes over the picture."""
    rng = np.random.default_rng(count)
    corners = rng.uniform(0, (WIDTH - 12, HEIGHT - 12), (count, 2))
    return np.hstack([corners, corners + rng.uniform(4, 12, (count, 2))]).round(2).tolist()


@pytest.mark.parametrize("form", ["polygons", "a mask", "compact"])
def test_three_hundred_boxes(caller: Caller, form: str) -> None:
    boxes = grid(300)
    reply = ask(caller, boxes, **FORMS[form])
    if form != "compact":
        assert sorted(thing["box"] for thing in reply.found) == sorted(boxes)
    kept = reply.arrays["boxes"]
    assert 0 < len(kept) <= 300
    assert len(kept) + len(reply.result["filtered"]) == 300
    assert len(reply.arrays["scores"]) == len(reply.arrays["labels"]) == len(kept)
    order = [boxes.index(box) for box in np.round(kept.astype(float), 2).tolist()]
    assert order == sorted(order), "objects keep the order of the boxes"


def test_the_filters_of_three_hundred_boxes_lose_none(caller: Caller) -> None:
    """Those behind SAM2, which need not see the boxes again."""
    middle = float(np.median(ask(caller, grid(300)).arrays["scores"]))
    reply = ask(caller, grid(300), confidence_threshold=middle, nms_threshold=0.1)
    assert len(reply.found) == 300
    assert {"nms", "confidence"} <= set(reasons(reply)) <= {"nms", "confidence", "empty_mask"}
    for item in reply.result["filtered"]:
        assert item["reason"] != "nms" or 0 <= item["suppressed_by"] < len(reply.result["objects"])


@pytest.mark.long
def test_the_most_boxes(caller: Caller) -> None:
    assert len(ask(caller, grid(1000)).found) == 1000


def test_more_than_the_most_boxes(caller: Caller) -> None:
    inputs = {"image": SCENE, "options": {"boxes": grid(1001)}}
    refused(caller.both(inputs), "options.boxes", "1001 boxes", "limit of 1000")


DEGENERATE = {
    "no width": [10, 10, 10, 50],
    "no height": [10, 10, 50, 10],
    "a point": [10, 10, 10, 10],
    "inverted": [80, 80, 20, 20],
    "inverted sideways": [80, 20, 20, 80],
    "left of it": [-50, 10, -10, 50],
    "right of it": [200, 10, 250, 50],
    "below it": [10, 100, 50, 130],
    "far away": [9e8, 9e8, 9.9e8, 9.9e8],
    "no width in the picture": [-10, 10, 0, 50],
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_a_box_without_area_is_reported_as_it_came(caller: Caller, name: str) -> None:
    reply = ask(caller, [DISC, DEGENERATE[name], SQUARE])
    assert [item["box"] for item in reply.result["objects"]] == [DISC, SQUARE]
    (lost,) = reply.result["filtered"]
    assert (lost["box"], lost["reason"], lost["score"]) == (DEGENERATE[name], "degenerate_box", None)


INSIDE = {
    "over the corner": ([-20, -20, 40, 40], [0, 0, 40, 40]),
    "over everything": ([-9e8, -9e8, 9e8, 9e8], [0, 0, WIDTH, HEIGHT]),
    "over a side": ([150, 20, 260, 60], [150, 20, 200, 60]),
    "a thousandth of a pixel": ([50, 50, 50.001, 50.001], [50, 50, 50.001, 50.001]),
    "smaller than anything": ([50, 50, 50 + 1e-12, 50 + 1e-12], [50, 50, 50 + 1e-12, 50 + 1e-12]),
}


@pytest.mark.parametrize("name", INSIDE)
def test_a_box_that_sticks_out_is_clipped(caller: Caller, name: str) -> None:
    box, clipped = INSIDE[name]
    reply = ask(caller, [box])
    (thing,) = reply.found
    assert thing["box"] == clipped
    assert thing.get("reason") in (None, "empty_mask")
    assert thing["score"] is not None, "SAM2 has seen it"


IMPOSSIBLE = {
    "a coordinate beyond 10⁹": [[0, 0, 1e9, 1]],
    "infinity": "[[0, 0, 1e400, 1]]",
    "three numbers": [[1, 2, 3]],
    "five numbers": [[1, 2, 3, 4, 5]],
    "a text": [["1", "2", "3", "4"]],
    "null": [[None, 0, 1, 1]],
    "a flag": [[True, 0, 1, 1]],
    "a flat list": [1, 2, 3, 4],
    "a nested list": [[[1, 2, 3, 4]]],
    "an object": [{"x1": 0}],
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_an_impossible_box_is_named(caller: Caller, name: str) -> None:
    boxes = IMPOSSIBLE[name]
    options = {"boxes": boxes} if isinstance(boxes, list) else f'{{"boxes": {boxes}}}'
    refused(caller.both({"image": SCENE, "options": options}), "options.boxes[0]", "four finite numbers")
    refused(caller.both({"image": SCENE, "options": {"boxes": "all"}}), "options.boxes", "a list of")
