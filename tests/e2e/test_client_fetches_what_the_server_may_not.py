"""A URL that the server refuses and the client may fetch: every call answers as it does for the picture's bytes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import DISC, SCENE, SQUARE
from picture_server import PATH, serving
from PIL import Image

from florence2_sam2.client import AsyncSegmenter, Finished, InvalidRequest, Segmentation, Segmenter, UrlRules
from florence2_sam2.server.launch.embedded import EmbeddedServer

pytestmark = pytest.mark.server

BOXES = [DISC, SQUARE]
SETTINGS: dict[str, Any] = {"area_threshold": 1, "num_beams": 1}


@pytest.fixture(scope="module")
def web() -> Iterator[tuple[str, list[str]]]:
    """Its address, which is in no server's allow-list, and the paths that it was asked for."""
    with serving(SCENE) as running:
        yield running


def same(one: Segmentation, other: Segmentation) -> bool:
    """Equal in everything but times."""
    return one.to_dict() | {"timings_ms": {}, "request_id": {}} == other.to_dict() | {
        "timings_ms": {},
        "request_id": {},
    }


def test_every_call(server: EmbeddedServer, web: tuple[str, list[str]]) -> None:
    address, asked = web
    url = f"http://{address}{PATH}"
    rules = UrlRules(allow=[address])
    with Segmenter(server.grpc_address, fetch="client", url_rules=rules, timeout=60) as client:
        before = len(asked)
        with pytest.raises(InvalidRequest) as caught:
            client.segment(url, fetch="server")
        assert caught.value.field == "image_url"
        assert len(asked) == before
        wanted = client.segment(SCENE, **SETTINGS)
        assert wanted.objects
        result = client.segment(url, **SETTINGS)
        assert same(result, wanted)
        assert np.array_equal(np.asarray(result.overlay()), np.asarray(wanted.overlay()))
        *_, last = client.stream(url, **SETTINGS)
        assert isinstance(last, Finished)
        assert same(last.result, wanted)
        done = client.segment_all([url, SCENE, f"http://{address}/missing.png"], **SETTINGS)
        assert same(done[0].unwrap(), wanted)
        assert same(done[1].unwrap(), wanted)
        assert isinstance(done[2].error, InvalidRequest)
        assert (done[2].error.field, "404" in str(done[2].error)) == ("image", True)
        text = client.florence2(SCENE, "<OD>")
        assert client.florence2(url, "<OD>").token_ids.tolist() == text.token_ids.tolist()
        masks = client.sam2(SCENE, BOXES)
        assert np.array_equal(client.sam2(url, BOXES).masks, masks.masks)
        assert asked[before:].count(PATH) == 5

    async def awaited() -> None:
        async with AsyncSegmenter(server.grpc_address, url_rules=rules, timeout=60) as other:
            one, said, outlined = await asyncio.gather(
                other.segment(url, fetch="client", **SETTINGS),
                other.florence2(url, "<OD>", fetch="client"),
                other.sam2(url, BOXES, fetch="client"),
            )
            assert same(one, wanted)
            assert said.token_ids.tolist() == text.token_ids.tolist()
            assert np.array_equal(outlined.masks, masks.masks)
            events = [event async for event in other.stream(url, fetch="client", **SETTINGS)]
            assert isinstance(events[-1], Finished)
            assert same(events[-1].result, wanted)

    asyncio.run(awaited())
    assert asked[before:].count(PATH) == 9


def test_the_command(server: EmbeddedServer, web: tuple[str, list[str]], tmp_path: Path) -> None:
    address, _ = web
    url, file = f"http://{address}{PATH}", tmp_path / "scene.png"
    file.write_bytes(SCENE)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "florence2_sam2", "segment", *map(str, arguments)]
        command += ["--area-threshold", "1", "--num-beams", "1", "--url", f"grpc://{server.grpc_address}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    here = ("--fetch-here", "--url-allow", address)
    done = run(url, *here, "--overlay", tmp_path / "{name}-objects.png")
    assert (done.returncode, done.stderr) == (0, "")
    answers = [
        json.loads(output) | {"timings_ms": 0, "request_id": 0} for output in (done.stdout, run(file).stdout)
    ]
    assert answers[0].pop("picture") == url
    assert answers[1].pop("picture") == str(file)
    assert answers[0] == answers[1]
    assert Image.open(tmp_path / "scene-objects.png").size == (200, 100)
    done = run(url, *here, "--results", tmp_path / "all.coco.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "all.coco.json").read_text())["images"][0]["file_name"] == url
    done = run(url, "--fetch-here")
    assert done.returncode == 1
    assert f"{url}: image: the URL cannot be fetched here: port" in done.stderr
