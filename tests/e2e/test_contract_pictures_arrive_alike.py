"""One picture, every way in: bytes, arrays, data URL, a URL that the server fetches."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import numpy as np
import pytest
from drawn import SCENE, scene, segment
from picture_server import serving

from florence2_sam2.client import InvalidRequest, Segmentation
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.settings import Settings

pytestmark = pytest.mark.server


def same(one: Segmentation, other: Segmentation) -> bool:
    """Equal in everything but times."""
    return one.to_dict() | {"timings_ms": {}, "request_id": {}} == other.to_dict() | {
        "timings_ms": {},
        "request_id": {},
    }


def test_bytes_arrays_and_data_urls_give_one_answer(server: EmbeddedServer) -> None:
    alone = segment(server)
    url = "data:image/png;base64," + base64.b64encode(SCENE).decode()
    for form in (url, scene(), np.asarray(scene())):
        assert same(segment(server, form), alone)


@pytest.fixture(scope="module")
def files() -> Iterator[tuple[str, list[str]]]:
    """A web server on loopback: its address, and the paths it was asked for."""
    with serving(SCENE) as running:
        yield running


@pytest.fixture(scope="module")
def fetching(files: tuple[str, list[str]]) -> Iterator[EmbeddedServer]:
    """A server that may fetch from that web server, and remembers nothing."""
    with EmbeddedServer(settings=Settings(url_allow=(files[0],), memory_bytes=0)) as server:
        yield server


def test_the_server_fetches_urls_that_it_is_allowed_to(
    server: EmbeddedServer, fetching: EmbeddedServer, files: tuple[str, list[str]]
) -> None:
    address, asked = files
    assert same(segment(fetching, f"http://{address}/scene.png"), segment(server))
    assert asked == ["/scene.png"]
    with pytest.raises(InvalidRequest, match="404") as caught:
        segment(fetching, f"http://{address}/missing.png")
    assert caught.value.field == "image_url"


def test_and_no_others(server: EmbeddedServer, files: tuple[str, list[str]]) -> None:
    address, asked = files
    before = list(asked)
    with pytest.raises(InvalidRequest) as caught:
        segment(server, f"http://{address}/scene.png")
    assert caught.value.field == "image_url"
    assert asked == before


def test_the_answer_is_plain_json(server: EmbeddedServer) -> None:
    result = segment(server, boxes=[[20, 20, 80, 80]], formats=["rle", "coco", "geojson"])
    assert json.loads(result.to_json(), parse_constant=lambda name: pytest.fail(name)) == result.to_dict()
