"""A call that is alone says, with its caption's request, that it will ground it, and asks for that answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from florence2_sam2.server.florence2_ahead import GROUNDING, PARAMETER
from florence2_sam2.server.manifest import packaged_repository
from florence2_sam2.server.segment.finding import CAPTION, DETECTION
from florence2_sam2.server.segment.memory import Audience
from florence2_sam2.server.segment.models import GenerationOptions
from florence2_sam2.server.segment.triton_models import TritonModels
from florence2_sam2.server.triton import bls

WRITTEN = "a disc"
Asked = tuple[np.ndarray, str, str]  # features, task, text


@pytest.fixture
def marks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str | None]]:
    """The mark that each of these requests has, one after the other."""

    def of(asked: list[Asked], is_alone: bool = True) -> list[str | None]:
        found: list[str | None] = []

        async def call_with_line(*_: Any, parameters: dict[str, Any], **named: Any) -> dict[str, np.ndarray]:
            found.append(parameters.get(PARAMETER))
            answer = {"text": WRITTEN.encode(), "regions": b"[]", "info": b'{"warnings": []}'}
            return {name: np.array([value], object) for name, value in answer.items()}

        async def run(function: Callable[..., Any], *arguments: Any) -> Any:
            return function(*arguments)

        async def ask() -> None:
            models = TritonModels(packaged_repository(), run, lambda: is_alone)
            for features, task, text in asked:
                await models.generate(features, (4, 3), task, text, GenerationOptions(), Audience())

        monkeypatch.setattr(bls, "call_with_line", call_with_line)
        asyncio.run(ask())
        return found

    return of


def picture() -> np.ndarray:
    return np.zeros((1, 2, 3), np.float32)


def test_a_caption_and_its_grounding_have_one_mark(marks: Callable[..., list[str | None]]) -> None:
    one, other = picture(), picture()
    asked = [(one, CAPTION, ""), (one, GROUNDING, WRITTEN), (other, CAPTION, ""), (other, GROUNDING, WRITTEN)]
    first, grounded, second, grounded_too = marks(asked)
    assert first is not None
    assert second is not None
    assert first == grounded != second == grounded_too
    assert len(first) >= 32, "others could guess it"


def test_others_have_none(marks: Callable[..., list[str | None]]) -> None:
    one, other = picture(), picture()
    caption = (one, CAPTION, "")
    for next_one in ((other, GROUNDING, WRITTEN), (one, GROUNDING, "the caller's own"), (one, DETECTION, "")):
        assert marks([caption, next_one])[1] is None
    assert marks([caption, (one, GROUNDING, WRITTEN), (one, GROUNDING, WRITTEN)])[2] is None
    assert marks([(one, GROUNDING, WRITTEN), (one, DETECTION, "")]) == [None, None]


def test_a_call_among_others_has_none(marks: Callable[..., list[str | None]]) -> None:
    one = picture()
    assert marks([(one, CAPTION, ""), (one, GROUNDING, WRITTEN)], is_alone=False) == [None, None]
