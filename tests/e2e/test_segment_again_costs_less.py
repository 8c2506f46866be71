"""A picture that is asked about again: the same answers, for less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence2_sam2.client import Segmentation, Segmenter
from florence2_sam2.server.launch.embedded import EmbeddedServer

pytestmark = pytest.mark.server
PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "demo.jpg"


def unseen(number: int) -> np.ndarray:
    """The demo's picture with another pixel in its corner: nobody has asked about it."""
    pixels = np.array(Image.open(PICTURE).convert("RGB"))
    pixels[0, 0] = number % 256, number // 256, 77
    return pixels


def without_times(answer: Segmentation) -> dict[str, Any]:
    return {key: value for key, value in answer.raw.items() if key not in ("timings_ms", "request_id")}


def models_time(answer: Segmentation) -> float:
    """Milliseconds in the stages that ask models."""
    return sum(answer.raw["timings_ms"][stage] for stage in ("caption", "ground", "embed", "masks"))


def test_the_same_call_again(server: EmbeddedServer) -> None:
    with Segmenter(server.grpc_address) as segmenter:
        first = segmenter.segment(unseen(1), output_mask=True)
        again = segmenter.segment(unseen(1), output_mask=True)
        other = segmenter.segment(unseen(2), output_mask=True)
    assert without_times(first) == without_times(again)
    assert without_times(first)["objects"]
    assert models_time(again) < 0.1 * models_time(first)
    assert models_time(other) > 0.3 * models_time(first)


def test_other_thresholds_get_their_own_answers(server: EmbeddedServer) -> None:
    with Segmenter(server.grpc_address) as segmenter:
        first = segmenter.segment(unseen(3))
        changed = [
            segmenter.segment(unseen(3), confidence_threshold=1.0),
            segmenter.segment(unseen(3), polygon_precision=0.0),
            segmenter.segment(unseen(3), area_threshold=1.0),
        ]
        assert all(models_time(answer) < 0.5 * models_time(first) for answer in changed)
    assert not changed[0].objects
    assert {item.reason for item in changed[0].filtered} >= {"confidence"}
    assert [o.label for o in changed[1].objects] == [o.label for o in first.objects]
    assert sum(len(p.exterior) for o in changed[1].objects for p in o.polygons) > sum(
        len(p.exterior) for o in first.objects for p in o.polygons
    )
    assert len(changed[2].filtered) < len(first.filtered)


def test_another_caption_keeps_the_features_only(server: EmbeddedServer) -> None:
    with Segmenter(server.grpc_address) as segmenter:
        first = segmenter.segment(unseen(5), caption="The image shows a red airplane.")
        other = segmenter.segment(unseen(5), caption="The image shows a wooden table.", area_threshold=1.0)
    assert {item.label for item in first.objects} == {"a red airplane"}
    assert {item.label for item in other.objects} == {"a wooden table"}
    assert other.raw["timings_ms"]["embed"] < 0.2 * first.raw["timings_ms"]["embed"]
