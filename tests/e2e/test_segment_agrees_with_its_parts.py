"""`segment` gives the masks of `sam2`, whichever way SAM2's encoder is scheduled, and says what it cut or left out."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calls import infer
from drawn import SCENE, iou, segment
from PIL import Image

from florence2_sam2.client import Segmentation
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.settings import Settings
from florence2_sam2.training.demo import HEIGHT, WIDTH, demo_scene

pytestmark = pytest.mark.server

PICTURE = (Path(__file__).resolve().parents[2] / "docs" / "pictures" / "demo.jpg").read_bytes()
THINGS = demo_scene().objects
THING = THINGS[0].phrase
BOXES = [*(thing.box.tolist() for thing in THINGS), [0, 166, 639, 479], (THINGS[0].box + 0.25).tolist()]
EVERYTHING: dict[str, Any] = {"area_threshold": 1, "confidence_threshold": 0, "nms_threshold": 1}


def test_masks_are_those_of_sam2_to_the_byte(server: EmbeddedServer) -> None:
    result = segment(server, PICTURE, boxes=BOXES, polygon_precision=0, **EVERYTHING)
    parts = infer(server.grpc_address, "sam2", {"image": PICTURE, "boxes": np.array(BOXES, np.float32)})
    assert len(result.objects) == len(BOXES)
    for mask, of_sam2 in zip(result.masks(), parts["masks"], strict=True):
        np.testing.assert_array_equal(mask, of_sam2)
    np.testing.assert_allclose([thing.score for thing in result.objects], parts["scores"], atol=1e-6)


def test_grounded_boxes_lead_to_the_same_masks(server: EmbeddedServer) -> None:
    grounded = segment(server, PICTURE, **EVERYTHING)
    boxes = [list(thing.box) for thing in grounded.objects]
    assert len(boxes) > 2
    given = segment(server, PICTURE, boxes=boxes, **EVERYTHING)
    assert [thing.polygons for thing in given.objects] == [thing.polygons for thing in grounded.objects]


@pytest.fixture(scope="module")
def overlapping() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(settings=Settings(overlap_sam2=True)) as server:
        yield server


def timeless(result: Segmentation) -> dict[str, Any]:
    return result.to_dict() | {"timings_ms": None, "request_id": None}


def test_sam2_beside_the_decoding_changes_no_answer(
    server: EmbeddedServer, overlapping: EmbeddedServer
) -> None:
    for picture in (PICTURE, SCENE):
        assert timeless(segment(overlapping, picture)) == timeless(segment(server, picture))
    nothing_left = segment(overlapping, PICTURE, area_threshold=0)
    assert nothing_left.objects == ()
    assert {row.reason for row in nothing_left.filtered} <= {"area", "banned_phrase"}


def test_a_caption_beyond_the_models_positions_is_cut_with_a_warning(server: EmbeddedServer) -> None:
    long = f"The image shows {THING} on a wooden table. " * 70
    assert len(long.encode()) < Settings().max_caption_bytes
    result = segment(server, PICTURE, caption=long, max_new_tokens=40)
    assert any("cut" in warning for warning in result.warnings)


def test_a_large_jpeg_decoded_at_a_reduced_size_gives_the_same_objects(server: EmbeddedServer) -> None:
    """What it changes is a little of each mask's edge: coordinates are those of the whole picture all the same."""
    file = io.BytesIO()
    large = Image.open(io.BytesIO(PICTURE)).resize((4 * WIDTH, 4 * HEIGHT), Image.Resampling.BICUBIC)
    large.save(file, "JPEG", quality=95)
    whole = segment(server, file.getvalue())
    reduced = segment(server, file.getvalue(), formats=["preview"], reduced_decode=True)
    assert len(whole.objects) > 2
    assert [thing.label for thing in reduced.objects] == [thing.label for thing in whole.objects]
    assert (reduced.width, reduced.height) == large.size
    overlaps = sorted(iou(*masks) for masks in zip(reduced.masks(), whole.masks(), strict=True))
    assert overlaps[0] > 0.8  # a hammer's, half of which is behind a leaf
    assert overlaps[1] > 0.95
    assert reduced.objects != whole.objects  # or nothing was reduced
    # A PNG is never reduced, and neither is what has no more pixels than the models take.
    for picture in (SCENE, PICTURE):
        assert segment(server, picture, reduced_decode=True).objects == segment(server, picture).objects


def test_tiles_look_closer(server: EmbeddedServer) -> None:
    whole = segment(server, PICTURE, caption=THING, **EVERYTHING)
    tiled = segment(server, PICTURE, caption=THING, tiles=2, **EVERYTHING)
    found = [*tiled.objects, *tiled.filtered]
    assert len(found) > len(whole.objects)
    assert [thing.box for thing in whole.objects] == [
        thing.box for thing in tiled.objects[: len(whole.objects)]
    ]
    for thing in tiled.objects:
        x1, y1, x2, y2 = thing.box
        assert 0 <= x1 < x2 <= WIDTH
        assert 0 <= y1 < y2 <= HEIGHT
