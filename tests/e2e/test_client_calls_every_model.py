"""The client's calls of the three models, blocking and awaited, beside plain calls of a real server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from calls import infer
from PIL import Image

from florence2_sam2.client import AsyncSegmenter, InvalidRequest, Region, Segmenter
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.training.demo import demo_scene

pytestmark = pytest.mark.server

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "pictures" / "demo.jpg"
THING = demo_scene().objects[0]


def test_florence2(server: EmbeddedServer) -> None:
    plain = infer(server.grpc_address, "florence2", {"image": PICTURE.read_bytes(), "task": b"<OD>"})
    with Segmenter(server.grpc_address) as client:
        answer = client.florence2(PICTURE, "<OD>")
        assert answer.text == plain["text"].item().decode()
        assert np.array_equal(answer.token_ids, plain["token_ids"])
        wanted = json.loads(plain["regions"].item())
        assert len(answer.regions) == len(wanted) > 0
        assert answer.regions[0] == Region(
            wanted[0]["label"],
            tuple(wanted[0]["box"]),
            dropped=wanted[0]["dropped"],
            score=wanted[0]["score"],
        )
        assert np.array_equal(answer.token_log_probabilities, plain["token_log_probabilities"])
        assert 0 < answer.regions[0].score < 1
        assert answer.log_probability == pytest.approx(
            json.loads(plain["info"].item())["log_probability"], rel=1e-3
        )
        assert set(answer.timings_ms) == {"waiting", "encoding", "decoding"}
        greedy = client.florence2(PICTURE, "<CAPTION_TO_PHRASE_GROUNDING>", THING.phrase, num_beams=1)
        assert [region.label for region in greedy.regions] == [THING.phrase] * len(greedy.regions)
        assert len(client.florence2(PICTURE, max_new_tokens=4).token_ids) <= 4
        phrases = client.florence2(PICTURE, "<CAPTION_TO_PHRASE_GROUNDING>", phrases=[THING.phrase])
        assert {region.label for region in phrases.regions} == {THING.phrase}
        with pytest.raises(InvalidRequest, match="task"):
            client.florence2(PICTURE, "<NO_SUCH_TASK>")
        with pytest.raises(ValueError, match="fetches URLs"):
            client.florence2("https://pictures/1.jpg")
        with pytest.raises(TypeError, match=r"florence2\(\) has no setting 'beams'"):
            client.florence2(PICTURE, beams=2)  # type: ignore[call-arg]

    async def awaited() -> None:
        async with AsyncSegmenter(server.grpc_address) as client:
            again, caption = await asyncio.gather(
                client.florence2(PICTURE, "<OD>"), client.florence2(PICTURE)
            )
            assert again.regions == answer.regions
            assert caption.text.startswith("The image shows")
            assert caption.regions == ()

    asyncio.run(awaited())


def test_polygons_are_points(server: EmbeddedServer) -> None:
    with Segmenter(server.grpc_address) as client:
        answer = client.florence2(PICTURE, "<REFERRING_EXPRESSION_SEGMENTATION>", THING.phrase)
    for region in answer.regions:
        for polygon in region.polygons:
            assert all(len(point) == 2 for point in polygon)


def test_sam2(server: EmbeddedServer) -> None:
    width, height = Image.open(PICTURE).size
    boxes = np.array([thing.box for thing in demo_scene().objects[:3]], np.float32)
    plain = infer(server.grpc_address, "sam2", {"image": PICTURE.read_bytes(), "boxes": boxes})
    with Segmenter(server.grpc_address) as client:
        answer = client.sam2(PICTURE, boxes.tolist())
        assert answer.masks.shape == (3, height, width)
        assert np.array_equal(answer.masks, plain["masks"])
        assert np.array_equal(answer.scores, plain["scores"])
        with pytest.raises(InvalidRequest, match="there is none"):
            client.sam2(PICTURE, np.zeros((0, 4)))
        with pytest.raises(ValueError, match=r"shape \[4\]"):
            client.sam2(PICTURE, [1, 2, 3, 4])  # type: ignore[list-item]

    async def awaited() -> None:
        async with AsyncSegmenter(server.grpc_address) as client:
            assert np.array_equal((await client.sam2(PICTURE, boxes)).masks, answer.masks)

    asyncio.run(awaited())


def test_masks_are_exact_whatever_the_polygons_are(server: EmbeddedServer) -> None:
    """The client asks for run lengths by itself; polygons are simplified by default."""
    with Segmenter(server.grpc_address) as client:
        result = client.segment(PICTURE, num_beams=1)
        exact = client.segment(PICTURE, num_beams=1, polygon_precision=0, formats=())
        whole = client.segment(PICTURE, num_beams=1, output_mask=True)
    assert result.objects
    assert all(item.rle is not None for item in result.objects)
    assert all(item.rle is None for item in exact.objects)
    assert np.array_equal(result.masks(), exact.masks())
    assert np.array_equal(result.mask(), whole.mask())
    cut = result.cutout(0)
    assert np.asarray(cut)[..., 3].astype(bool).sum() == result.objects[0].mask_area


def test_many_pictures(server: EmbeddedServer) -> None:
    boxes = [THING.box.tolist()]
    with Segmenter(server.grpc_address) as client:
        done = client.segment_all(
            [PICTURE, "missing.jpg", b"no picture", PICTURE], boxes=boxes, area_threshold=1
        )
        one = client.segment(PICTURE, boxes=boxes, area_threshold=1)
    assert [type(d.error) for d in done] == [type(None), FileNotFoundError, InvalidRequest, type(None)]
    assert done[0].unwrap().objects == done[3].unwrap().objects == one.objects
