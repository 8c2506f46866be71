"""The pipeline asks the models only for what is needed, and every box ends as an object or with a reason."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from florence2_sam2.server.errors import Cancelled
from florence2_sam2.server.segment.models import Generated, Picture, Region, Sam2Maps, Written
from florence2_sam2.server.segment.outcome import Outcome
from florence2_sam2.server.segment.pipeline import BOXES_AT_ONCE, Pipeline
from florence2_sam2.server.segment.request import parse_request
from florence2_sam2.server.settings import Settings

WIDTH, HEIGHT = 200, 100
PICTURE = Picture.of(np.zeros((HEIGHT, WIDTH, 3), np.uint8), b"x")
MAP = np.zeros((1, 1, 1, 1), np.float32)


class DrawnModels:
    """Models that find what they are told and fill each box; they note what they were asked."""

    def __init__(self, regions: list[Region], scores: dict[tuple, float] | None = None) -> None:
        self.identities: dict[str, dict[str, Any]] = {}
        self.regions, self.scores = regions, scores or {}
        self.calls: list[str] = []
        self.resized: list[np.ndarray] = []

    async def image_features(self, picture: np.ndarray) -> np.ndarray:
        self.calls.append("image_features")
        return MAP

    async def generate(self, features, size, task, text, options, tell) -> Generated:
        self.calls.append(task)
        if task == "<MORE_DETAILED_CAPTION>":
            tell(Written("A"))
            tell(Written("A cat.", whole=True))
            tell(Written("A late word"))
            return Generated("A cat.", (), ("cut",))
        return Generated("", tuple(self.regions), ("cut",))

    async def sam2_pixels(self, picture: np.ndarray) -> np.ndarray:
        self.resized.append(picture[::2, ::2])
        return self.resized[-1]

    async def sam2_features(self, pixels: np.ndarray) -> Sam2Maps:
        assert any(pixels is resized for resized in self.resized)
        self.calls.append("sam2_features")
        return Sam2Maps(MAP, MAP, MAP)

    async def masks(self, features, boxes, size) -> tuple[np.ndarray, np.ndarray]:
        self.calls.append(f"masks {len(boxes)}")
        logits = np.full((len(boxes), 64, 64), -1, np.float32)
        for mask, (x1, y1, x2, y2) in zip(logits, boxes / [WIDTH, HEIGHT, WIDTH, HEIGHT] * 64, strict=True):
            mask[round(y1) : round(y2), round(x1) : round(x2)] = 1
        return logits, np.array([self.scores.get(tuple(box), 0.9) for box in boxes.tolist()], np.float32)


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(function, *arguments)


def segment(
    models: DrawnModels, overlap: bool = False, cancelled: Callable[[], bool] = lambda: False, **inputs: Any
) -> Outcome:
    request = parse_request({"image": b"x", **inputs}, Settings())
    pipeline = Pipeline(models, in_thread, overlap)
    return asyncio.run(pipeline(request, lambda: PICTURE, cancelled))


def reasons(outcome: Outcome) -> list[str | None]:
    return [candidate.reason for candidate in outcome.candidates]


SMALL = Region("cat", (10, 10, 60, 60))


def test_a_caption_is_written_and_grounded_on_one_vision_run() -> None:
    models = DrawnModels([SMALL])
    outcome = segment(models)
    expected = [
        "image_features",
        "<MORE_DETAILED_CAPTION>",
        "<CAPTION_TO_PHRASE_GROUNDING>",
        "sam2_features",
        "masks 1",
    ]
    assert models.calls == expected
    assert (outcome.caption, outcome.caption_source, outcome.warnings) == ("A cat.", "florence2", ["cut"])
    assert [candidate.label for candidate in outcome.kept] == ["cat"]
    assert outcome.kept[0].mask is not None
    assert outcome.kept[0].mask.area > 0


def test_a_callers_caption_is_only_grounded() -> None:
    models = DrawnModels([SMALL])
    outcome = segment(models, caption=b" A dog. ")
    assert "<MORE_DETAILED_CAPTION>" not in models.calls
    assert (outcome.caption, outcome.caption_source) == ("A dog.", "caller")


def test_sam2_does_not_run_when_no_box_is_left() -> None:
    models = DrawnModels([Region("table", (0, 0, 200, 90)), Region("it", (1, 1, 9, 9), "banned_phrase")])
    outcome = segment(models)
    assert "sam2_features" not in models.calls
    assert reasons(outcome) == ["area", "banned_phrase"]
    assert outcome.candidates[0].area_ratio == pytest.approx(0.9)


def test_the_area_threshold_itself_stays() -> None:
    models = DrawnModels([Region("a", (0, 0, 100, 60)), Region("b", (0, 0, 100, 61))])
    outcome = segment(
        models, area_threshold=np.array([0.3], np.float32), nms_threshold=np.array([1], np.float32)
    )
    assert reasons(outcome) == [None, "area"]


def test_own_boxes_skip_florence2() -> None:
    models = DrawnModels([])
    boxes = b'{"boxes": [[10, 10, 60, 60], [60, 60, 10, 10], [-5, -5, 20, 20], [300, 10, 400, 20]]}'
    outcome = segment(models, options=boxes)
    assert models.calls == ["sam2_features", "masks 2"]
    assert reasons(outcome) == [None, "degenerate_box", None, "degenerate_box"]
    assert outcome.candidates[2].box == (0, 0, 20, 20)
    assert outcome.candidates[3].box == (300, 10, 400, 20)


def test_normalized_boxes() -> None:
    outcome = segment(DrawnModels([]), options=b'{"boxes": [[0.1, 0.1, 0.2, 0.5]], "normalized": true}')
    assert outcome.kept[0].box == pytest.approx((20, 10, 40, 50))


def test_many_boxes_go_to_the_decoder_in_chunks() -> None:
    models = DrawnModels([Region("a", (x, 0, x + 2, 50)) for x in range(2 * BOXES_AT_ONCE + 1)])
    segment(models)
    assert models.calls[-3:] == [f"masks {BOXES_AT_ONCE}", f"masks {BOXES_AT_ONCE}", "masks 1"]


def test_overlapping_boxes_lose_to_the_better_score() -> None:
    first, second = Region("a", (10, 10, 60, 60)), Region("b", (11, 10, 60, 60))
    models = DrawnModels([first, second], {first.box: 0.6, second.box: 0.8})
    for form in ("box", "mask", "containment"):
        outcome = segment(models, options=f'{{"nms": "{form}"}}'.encode())
        assert reasons(outcome) == ["nms", None]
        assert outcome.candidates[0].suppressed_by is outcome.candidates[1]


def test_a_nested_object_is_lost_to_containment_only() -> None:
    models = DrawnModels([Region("a", (10, 10, 80, 80)), Region("b", (20, 20, 40, 40))])
    assert reasons(segment(models)) == [None, None]
    assert reasons(segment(models, options=b'{"nms": "containment"}')) == [None, "nms"]


def test_uncertain_and_empty_masks_have_reasons() -> None:
    sure, unsure, thin = (
        Region("a", (0, 0, 50, 50)),
        Region("b", (60, 0, 99, 50)),
        Region("c", (121, 10, 121.5, 50)),
    )
    models = DrawnModels([sure, unsure, thin], {unsure.box: 0.4999, sure.box: 0.5})
    assert reasons(segment(models)) == [None, "confidence", "empty_mask"]


def test_tiles_move_boxes_and_drop_fragments() -> None:
    models = DrawnModels([Region("a", (20, 20, 40, 40)), Region("b", (0, 10, 20, 20))])
    outcome = segment(models, options=b'{"tiles": 2}')
    assert models.calls.count("image_features") == 1 + 4
    boxes = [candidate.box for candidate in outcome.candidates if candidate.label == "a"]
    assert boxes[0] == (20, 20, 40, 40)
    assert len({box[:2] for box in boxes}) == 4  # the first tile's is the whole picture's
    assert [c.reason for c in outcome.candidates if c.label == "b"].count("tile_border") == 2


def test_sam2_beside_the_decoding_gives_the_same() -> None:
    apart, beside = DrawnModels([SMALL]), DrawnModels([SMALL])
    first, second = segment(apart), segment(beside, overlap=True)
    assert sorted(apart.calls) == sorted(beside.calls)
    assert [c.box for c in first.kept] == [c.box for c in second.kept]


@pytest.mark.parametrize("after", range(7))
def test_a_cancelled_call_stops_before_the_next_stage(after: int) -> None:
    models = DrawnModels([SMALL])
    asked = iter([False] * after + [True] * 50)
    with pytest.raises(Cancelled):
        segment(models, cancelled=lambda: next(asked))
    assert len(models.calls) <= after
