"""One picture, every way in: bytes, data URL, a URL that the server fetches; 16 at once answer as one alone does."""

from __future__ import annotations

import asyncio
import base64
import http.server
import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from drawn import SCENE, scene, segment
from PIL import Image

from florence2_sam2.client import AsyncSegmenter, InvalidRequest, Segmentation
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.settings import Settings
from florence2_sam2.training.scenes import draw_scene

pytestmark = pytest.mark.server


def same(one: Segmentation, other: Segmentation) -> bool:
    """Equal in everything but times."""
    return one.to_dict() | {"timings_ms": {}} == other.to_dict() | {"timings_ms": {}}


def test_bytes_arrays_and_data_urls_give_one_answer(server: EmbeddedServer) -> None:
    alone = segment(server)
    url = "data:image/png;base64," + base64.b64encode(SCENE).decode()
    for form in (url, scene(), np.asarray(scene())):
        assert same(segment(server, form), alone)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_pictures_of_any_mode_are_answered(server: EmbeddedServer, mode: str) -> None:
    assert segment(server, Image.open(io.BytesIO(SCENE)).convert(mode), boxes=[]).width == 200


class Files(http.server.BaseHTTPRequestHandler):
    """The picture at /scene.png, nothing elsewhere; each request is counted."""

    requests: list[str]

    def do_GET(self) -> None:
        self.requests.append(self.path)
        found = self.path == "/scene.png"
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(len(SCENE) if found else 0))
        self.end_headers()
        if found:
            self.wfile.write(SCENE)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def files() -> Iterator[tuple[str, list[str]]]:
    """A web server on loopback: its address, and the paths it was asked for."""
    asked: list[str] = []
    handler = type("Handler", (Files,), {"requests": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{web.server_address[1]}", asked
        web.shutdown()


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


def test_sixteen_at_once_answer_as_one_alone(server: EmbeddedServer, fetching: EmbeddedServer) -> None:
    """Different pictures and settings together: labels and boxes equal, scores within 1e-4, masks alike.

    Another server than the one that was asked alone: what that one remembers would prove nothing.
    """
    pictures = [draw_scene(np.random.default_rng(seed), 160 + 8 * seed, 160).image for seed in range(4)]
    settings: list[dict[str, Any]] = [
        {"area_threshold": 1},
        {"area_threshold": 1, "num_beams": 1},
        {"area_threshold": 1, "caption": "a red ball next to a blue square"},
        {"boxes": [[10, 10, 90, 90], [60, 60, 150, 150]], "confidence_threshold": 0},
    ]
    calls = [(image, setting | {"polygon_precision": 0}) for image in pictures for setting in settings]
    alone = [segment(server, image, **setting) for image, setting in calls]

    async def together() -> list[Segmentation]:
        async with AsyncSegmenter(fetching.grpc_address) as segmenter:
            return await asyncio.gather(*(segmenter.segment(image, **setting) for image, setting in calls))

    for one, other in zip(alone, asyncio.run(together()), strict=True):
        assert one.caption == other.caption
        for name in ("objects", "filtered"):
            first, second = getattr(one, name), getattr(other, name)
            assert [(item.label, item.box) for item in first] == [(item.label, item.box) for item in second]
            assert np.allclose(
                [item.score or 0 for item in first], [item.score or 0 for item in second], atol=1e-4, rtol=0
            )
        assert (one.masks() != other.masks()).mean() < 1e-4 if len(one.objects) else True
    assert sum(len(one.objects) for one in alone) >= 16


def test_the_answer_is_plain_json(server: EmbeddedServer) -> None:
    result = segment(server, boxes=[[20, 20, 80, 80]], formats=["rle", "coco", "geojson"])
    assert json.loads(result.to_json(), parse_constant=lambda name: pytest.fail(name)) == result.to_dict()
