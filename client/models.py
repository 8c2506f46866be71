"""The calls of the server's two other models: any Florence-2 task, and boxes to masks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferInput, InferRequestedOutput

from florence2_sam2.client import request
from florence2_sam2.client.images import Encoded
from florence2_sam2.client.objects import Point

FLORENCE2, SAM2 = "florence2", "sam2"
DEFAULT_TASK = "<MORE_DETAILED_CAPTION>"


class Florence2Settings(TypedDict, total=False):
    """Settings of one `florence2` call. One that is absent or None has the checkpoint's default."""

    num_beams: int | None
    """Beams of the search, 1 (greedy) to 8."""
    max_new_tokens: int | None
    """Limit on the answer's length."""
    min_new_tokens: int | None
    """The answer does not end before."""
    phrases: Sequence[str] | None
    """Under `<CAPTION_TO_PHRASE_GROUNDING>`, in place of the text: grounded as they are."""
    priority: Literal["interactive", "bulk"] | None
    """`bulk` lets interactive requests pass."""


@dataclass(frozen=True)
class Region:
    """A place that Florence-2 named, in pixels of the upright picture: it has a box, a quad or polygons."""

    label: str
    box: tuple[float, float, float, float] | None = None
    """x1, y1, x2, y2."""
    quad: tuple[Point, ...] | None = None
    """Four corners, of a line of text."""
    polygons: tuple[tuple[Point, ...], ...] = ()
    dropped: str | None = None
    """Why it should not be used (`banned_phrase`, `degenerate_box` …); None when it should."""
    score: float | None = None
    """Geometric mean of the probabilities of its tokens, label and location; None of polygons."""


@dataclass(frozen=True)
class Florence2Answer:
    """What Florence-2 said."""

    text: str
    """As text; location tokens stay in it (`<loc_17>`) but for tasks that answer in words only."""
    regions: tuple[Region, ...]
    token_ids: npt.NDArray[np.int64] = field(repr=False, compare=False)
    """int64 [L]: what transformers' `generate` returns without its first token."""
    log_probability: float
    """Of the whole answer."""
    token_log_probabilities: npt.NDArray[np.float32] = field(repr=False, compare=False)
    """float32 [L]: of each of `token_ids`, given those before."""
    warnings: tuple[str, ...]
    timings_ms: Mapping[str, float]
    """`waiting` for a place, `encoding` the prompt, `decoding`."""
    request_id: str | None = field(default=None, compare=False)
    """What the call is known by in the server's logs and traces."""


@dataclass(frozen=True)
class Sam2Answer:
    """One mask and score for each box, in the boxes' order."""

    masks: npt.NDArray[np.bool_] = field(compare=False)
    """bool [N, height, width], of the picture's size."""
    scores: npt.NDArray[np.float32] = field(compare=False)
    """float32 [N]: SAM2's predicted IoU, 0…1."""
    request_id: str | None = field(default=None, compare=False)
    """What the call is known by in the server's traces."""


def florence2_inputs(image: Encoded, task: str, text: str, settings: Florence2Settings) -> list[InferInput]:
    """The tensors of one call.

    Raises:
        TypeError: a setting that does not exist, or one of the wrong Python type.
        ValueError: the picture is a URL.
    """
    request.require_known(settings, Florence2Settings, "florence2")
    options = {name: request.plain(name, value) for name, value in settings.items() if value is not None}
    inputs = [request.bytes_tensor("image", _data(image, FLORENCE2)), request.text_tensor("task", task)]
    if text:
        inputs.append(request.text_tensor("text", text))
    if options:
        inputs.append(request.text_tensor("options", json.dumps(options, ensure_ascii=False)))
    return inputs


def florence2_answer(answer: Any) -> Florence2Answer:
    """From tritonclient's InferResult.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: it is of another form.
    """
    info = json.loads(answer.as_numpy("info").item())
    return Florence2Answer(
        answer.as_numpy("text").item().decode(),
        tuple(map(_region, json.loads(answer.as_numpy("regions").item()))),
        answer.as_numpy("token_ids"),
        info["log_probability"],
        answer.as_numpy("token_log_probabilities"),
        tuple(info["warnings"]),
        info["timings_ms"],
        info.get("request_id"),
    )


def sam2_inputs(image: Encoded, boxes: Any) -> list[InferInput]:
    """The tensors of one call.

    Raises:
        TypeError, ValueError: `boxes` are not numbers [N, 4], or the picture is a URL.
    """
    array = np.asarray(boxes, dtype=np.float32)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"boxes: shape {list(array.shape)}; [[x1, y1, x2, y2], …] is wanted")
    return [
        request.bytes_tensor("image", _data(image, SAM2)),
        request.tensor("boxes", "FP32", np.ascontiguousarray(array)),
    ]


def sam2_answer(answer: Any) -> Sam2Answer:
    """As `florence2_answer`."""
    masks, scores = answer.as_numpy("masks"), answer.as_numpy("scores")
    if masks.ndim != 3 or len(masks) != len(scores):
        raise ValueError(f"masks {list(masks.shape)} and scores {list(scores.shape)}")
    return Sam2Answer(masks, scores, answer.get_response().id or None)


def outputs(model: str) -> list[InferRequestedOutput]:
    """What is asked of `model`."""
    names = (
        ("text", "regions", "token_ids", "token_log_probabilities", "info")
        if model == FLORENCE2
        else ("masks", "scores")
    )
    return [InferRequestedOutput(name) for name in names]


def _data(image: Encoded, model: str) -> bytes:
    if image.data is None:
        raise ValueError(
            f'image: {model} takes the picture itself; only `segment` fetches URLs, or the client: fetch="client"'
        )
    return image.data


def _region(item: Mapping[str, Any]) -> Region:
    box, quad = item.get("box"), item.get("quad")
    return Region(
        item["label"],
        None if box is None else (box[0], box[1], box[2], box[3]),
        None if quad is None else _points(quad),
        tuple(map(_points, item.get("polygons", ()))),
        item.get("dropped"),
        item.get("score"),
    )


def _points(numbers: Sequence[float]) -> tuple[Point, ...]:
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))
