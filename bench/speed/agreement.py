"""Both sides have answered alike: asserted in the run that is timed, or its times mean nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import tritonclient.grpc as grpc

from bench.fullsize.serving import ious
from florence2_sam2.client import Segmentation
from florence2_sam2.postprocess.rle import decode_rle

SMALLEST_IOU = 0.999  # of masks: a pixel whose logit is zero within rounding may fall to either side
SCORE_ERROR = 1e-3
CAPTION, GROUNDING = "<MORE_DETAILED_CAPTION>", "<CAPTION_TO_PHRASE_GROUNDING>"


@dataclass(frozen=True)
class Expected:
    """The reference's answer, as a process without torch can hold it: that of `bench.reference.ReferenceResult`.

    `boxes` float64 [N,4], `scores` float32 [N], `masks` bool [N,H,W]; `filtered` are labels with the filter's name.
    """

    caption: str
    caption_ids: list[int]
    grounding_ids: list[int]
    boxes: np.ndarray
    labels: list[str]
    scores: np.ndarray
    masks: np.ndarray
    filtered: list[tuple[str, str]]


class Differs(Exception):
    """The two sides have answered differently: a failure of the whole comparison."""


@dataclass
class Agreement:
    """How far answers that agree were apart."""

    pictures: int = 0
    masks: int = 0
    tokens: int = 0
    smallest_iou: float = 1.0
    score_error: float = 0.0

    def sentence(self) -> str:
        return (
            f"{self.pictures} answers with {self.masks} masks, {self.tokens} tokens: captions, tokens, labels, boxes"
            f" equal, smallest IoU {self.smallest_iou:.5f}, scores within {self.score_error:.0e}"
        )

    def compare(self, answer: Segmentation, expected: Expected) -> None:
        """The server's answer, with run lengths, against the reference's.

        Raises:
            Differs: in caption, labels, boxes, what was left out and why, in a mask or a score.
        """
        self.pictures += 1
        _equal("caption", answer.caption, expected.caption)
        _equal("labels", [item.label for item in answer.objects], expected.labels)
        boxes = np.array([item.box for item in answer.objects]).reshape(-1, 4)
        # JSON writes doubles exactly; boxes are floats on both sides.
        if not np.array_equal(boxes.astype(np.float32), expected.boxes.astype(np.float32)):
            raise Differs(f"boxes: {boxes.tolist()} and {expected.boxes.tolist()}")
        _equal(
            "left out",
            [(item.label, item.reason) for item in answer.filtered],
            expected.filtered,
        )
        for item, score, mask in zip(answer.objects, expected.scores, expected.masks, strict=True):
            if abs(item.score - score) > SCORE_ERROR:
                raise Differs(f"score of {item.label!r}: {item.score} and {score}")
            (iou,) = ious(decode_rle(item.rle or {})[None], mask[None])
            if iou < SMALLEST_IOU:
                raise Differs(f"mask of {item.label!r}: IoU {iou:.4f}")
            self.masks += 1
            self.smallest_iou = min(self.smallest_iou, iou)
            self.score_error = max(self.score_error, abs(float(item.score - score)))

    def compare_tokens(self, address: str, picture: bytes, beams: int, expected: Expected) -> None:
        """What the server's Florence-2 writes, token by token, against the reference's.

        Raises:
            Differs: in a token of the caption or of the grounding.
        """
        for task, text, ids in (
            (CAPTION, "", expected.caption_ids),
            (GROUNDING, expected.caption, expected.grounding_ids),
        ):
            if task == GROUNDING and not text:
                continue
            tokens = florence2(address, picture, task, text, beams)["token_ids"].tolist()
            _equal(f"tokens of {task}", tokens, ids)
            self.tokens += len(ids)


def florence2(
    address: str, picture: bytes, task: str, text: str = "", beams: int | None = None
) -> dict[str, Any]:
    """Ask the model `florence2` itself: `token_ids` INT64 [L], `text`, and `info` as in its JSON."""
    options = {} if beams is None else {"num_beams": beams}
    given = {"image": picture, "task": task.encode(), "options": json.dumps(options).encode()}
    if text:
        given["text"] = text.encode()
    inputs = []
    for name, value in given.items():
        tensor = grpc.InferInput(name, [1], "BYTES")
        array = np.empty(1, np.object_)  # numpy's own bytes would lose trailing zeros
        array[0] = value
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    # gRPC would ask the environment's proxy for the way even to this machine.
    client = grpc.InferenceServerClient(address, channel_args=[("grpc.enable_http_proxy", 0)])
    try:
        answer = client.infer("florence2", inputs)
    finally:
        client.close()
    return {
        "token_ids": answer.as_numpy("token_ids"),
        "text": answer.as_numpy("text")[0].decode(),
        "info": json.loads(answer.as_numpy("info")[0]),
    }


def _equal(what: str, ours: Any, theirs: Any) -> None:
    if ours != theirs:
        raise Differs(f"{what}: the server has {str(ours)[:300]!r}, the reference {str(theirs)[:300]!r}")
