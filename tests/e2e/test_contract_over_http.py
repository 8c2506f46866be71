"""`segment_http` through Triton's generate endpoint, with nothing but the standard library."""

from __future__ import annotations

import base64
import io
import json
import urllib.error
import urllib.request
from typing import Any

import numpy as np
import pytest
from drawn import HEIGHT, SCENE, WIDTH, segment
from PIL import Image

from florence2_sam2.client import Segmentation
from florence2_sam2.server.launch.embedded import EmbeddedServer

pytestmark = pytest.mark.server

ENCODED = base64.b64encode(SCENE).decode()
BOX = json.dumps({"boxes": [[20, 20, 80, 80]]})


def post(server: EmbeddedServer, **fields: Any) -> tuple[int, dict[str, Any]]:
    """Status and JSON body of one call."""
    request = urllib.request.Request(
        f"http://{server.http_address}/v2/models/segment_http/generate",
        data=json.dumps(fields).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def result(server: EmbeddedServer, **fields: Any) -> Segmentation:
    status, body = post(server, **fields)
    assert status == 200, body
    return Segmentation.from_json(json.loads(body["result"]))


def test_the_answer_is_that_of_grpc(server: EmbeddedServer) -> None:
    over_http = result(server, image_base64=ENCODED)
    assert over_http.to_dict() | {"timings_ms": 0, "request_id": 0} == segment(server).to_dict() | {
        "timings_ms": 0,
        "request_id": 0,
    }


def test_nothing_found(server: EmbeddedServer) -> None:
    assert result(server, image_base64=ENCODED, options='{"boxes": []}').objects == ()


def test_one_object(server: EmbeddedServer) -> None:
    found = result(server, image_base64=ENCODED, options=BOX, confidence_threshold=0, area_threshold=1)
    assert [item.box for item in found.objects] == [(20, 20, 80, 80)]


def test_data_urls(server: EmbeddedServer) -> None:
    found = result(server, image_url=f"data:image/png;base64,{ENCODED}", options=BOX)
    assert (found.width, found.height) == (WIDTH, HEIGHT)


def test_mask_mode(server: EmbeddedServer) -> None:
    found = result(server, image_base64=ENCODED, options=BOX, output_mask=True, confidence_threshold=0)
    assert found.mask_png is not None
    assert Image.open(io.BytesIO(found.mask_png)).size == (WIDTH, HEIGHT)
    assert np.array_equal(found.mask(), segment(server, boxes=[[20, 20, 80, 80]], polygon_precision=0).mask())


def test_integers_are_numbers_too(server: EmbeddedServer) -> None:
    assert (
        result(server, image_base64=ENCODED, options=BOX, area_threshold=1).parameters["area_threshold"] == 1
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image_base64": ENCODED, "area_treshold": 0.5}, ["area_treshold", "area_threshold"]),
        ({"image_base64": ENCODED, "colour": "red"}, ["colour", "image_base64"]),
        ({"image_base64": ENCODED, "tiles": 2}, ["tiles"]),
        ({"image_base64": "%%%"}, ["image_base64"]),
        ({"image_base64": base64.b64encode(b"no picture").decode()}, ["image"]),
        ({}, ["image"]),
        ({"image_base64": ENCODED, "image_url": "data:image/png;base64,AA"}, ["image"]),
        ({"image_base64": ENCODED, "area_threshold": 1.5}, ["area_threshold", "0 to 1"]),
        ({"image_base64": ENCODED, "options": '{"colour": 1}'}, ["options.colour"]),
    ],
)
def test_mistakes_are_400_and_named(server: EmbeddedServer, fields: dict[str, Any], words: list[str]) -> None:
    status, body = post(server, **fields)
    assert status == 400
    assert all(word in body["error"] for word in words), body
