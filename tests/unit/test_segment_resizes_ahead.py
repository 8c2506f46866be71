"""What SAM2's encoder takes of a picture is made while Florence-2 writes, once, and only where it may be needed."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from florence2_sam2.server.segment.models import Generated
from tests.unit.test_segment_pictures_are_paid_for_once import Asked
from tests.unit.test_segment_pipeline_filters import DrawnModels


def resized(ask: Asked, **inputs: Any) -> int:
    """How often a call has the picture resized for SAM2."""
    ask.models.resized.clear()
    ask(**inputs)
    return len(ask.models.resized)


def test_it_is_ready_when_the_caption_is_written() -> None:
    class Slow(DrawnModels):
        async def generate(self, *arguments: Any) -> Generated:
            await asyncio.sleep(0.05)  # the resizing is in a thread
            self.ahead.append(len(self.resized))
            return await super().generate(*arguments)

    ask = Asked()
    ask.models = ask.pipeline.models = Slow(ask.models.regions)
    ask.models.ahead = []
    calls, _ = ask()
    assert "sam2_features" in calls
    assert ask.models.ahead == [1, 1]
    assert len(ask.models.resized) == 1


def test_windows_of_a_picture_are_not_for_sam2() -> None:
    assert resized(Asked(), options=b'{"tiles": 2}') == 1


def test_it_is_made_once_beside_an_encoder_that_runs_ahead() -> None:
    assert resized(Asked(overlap=True)) == 1


def test_own_boxes_have_it_made_when_it_is_needed() -> None:
    assert resized(Asked(), options=b'{"boxes": [[10, 10, 60, 60]]}') == 1


def test_nothing_is_made_of_a_picture_whose_features_are_known() -> None:
    ask = Asked()
    assert resized(ask, options=b'{"boxes": [[10, 10, 60, 60]]}') == 1
    assert resized(ask) == 0  # its first caption
    assert resized(ask, caption=b"A dog.") == 0


def test_a_call_without_a_box_for_sam2_ends_all_the_same() -> None:
    ask = Asked()
    calls, outcome = ask(area_threshold=np.array([0.01], np.float32))
    assert "sam2_features" not in calls
    assert outcome.kept == []
