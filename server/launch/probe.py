"""The launcher's own requests: real ones at the start, since ready means that one has been answered (Triton's own READY
also holds when a model's process is dead), and now and then while nobody else asks; and whether the models are well.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from florence2_sam2.server.launch.connection import Connection, NoAnswer, Refused
from florence2_sam2.server.launch.errors import StartError
from florence2_sam2.server.launch.watch import Health

SECONDS = 120.0
BOX = np.array([[8, 8, 40, 40]], np.float32)
SAM2_STEPS = ("sam2_preprocess", "sam2_image_encoder", "sam2_mask_decoder", "sam2_postprocess")
# The models that are asked for the server's health, and the outputs that they tell it in.
FRONTS = {"segment_http": "result", "segment_stream": "event"}
HEALTH_SECONDS = (
    8.0  # somewhat more than the models give each other, who can name the one that does not answer
)
# What is said by whoever has too much to do, here as part of the message.
_BUSY = (
    "is full",
    "are waiting already",
    "wait for Florence-2 already",
    "maximum queue size",
    "too long for",
)

Inputs = Mapping[str, bytes | NDArray[np.float32]]


class Hangs(Exception):
    """A model that a request needs answers neither this one nor any other.

    Attributes:
        passed: the models before it on the request's way. Each has answered a request, which may have been another's.
    """

    def __init__(self, reason: str, passed: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.passed = tuple(passed)


def first(connection: Connection, models: Collection[str], seconds: float = SECONDS) -> None:
    """One inference through every part that is loaded and that `segment` needs: four tokens name no box, so two calls.

    Args:
        models: names of the loaded models.

    Raises:
        StartError: a request failed.
    """
    requests: list[tuple[str, Inputs, str]] = []
    if "segment" in models:
        for options in (b'{"max_new_tokens": 4}', b'{"boxes": [[8, 8, 40, 40]]}'):
            requests.append(("segment", {"image": _picture(), "options": options}, "result"))
    elif "sam2" in models:
        requests.append(("sam2", {"image": _picture(), "boxes": BOX}, "masks"))
    for model, inputs, output in requests:
        try:
            connection.infer(model, inputs, output, seconds)
        except (NoAnswer, Refused) as error:
            raise StartError(f"the first request to {model} failed: {error}") from None


def again(connection: Connection, models: Collection[str], seconds: float) -> None:
    """One inference through Florence-2 and one through SAM2, past `segment`: its memory would know the answer, or lose
    a user's for it. A server that refuses because it has too much to do is well.

    Args:
        models: names of the loaded models.
        seconds: for each.

    Raises:
        Hangs: no answer in time, for a model on the way answers nobody. (Of `florence2` itself its health tells.)
        NoAnswer: no answer in time, and it is not clear why; or the connection broke.
        Refused: an error.
    """
    picture = _picture()
    options = b'{"max_new_tokens": 4, "priority": "bulk"}'
    if "florence2" in models:
        asked: Inputs = {"image": picture, "options": options}
        _ask(connection, "florence2", asked, "text", ("florence2_vision_encoder",), seconds)
    if "sam2" in models:
        asked = {"image": picture, "boxes": BOX}
        _ask(connection, "sam2", asked, "masks", SAM2_STEPS, seconds)


def _ask(
    connection: Connection, model: str, inputs: Inputs, output: str, steps: Sequence[str], seconds: float
) -> None:
    before = answered(connection)
    try:
        connection.infer(model, inputs, output, seconds)
    except Refused as error:
        if not any(words in str(error) for words in _BUSY):
            raise
    except NoAnswer as error:
        now = answered(connection)
        blame(model, steps, [now.get(step, 0) - before.get(step, 0) for step in steps], error)


def blame(model: str, steps: Sequence[str], answers: Sequence[int], error: NoAnswer) -> None:
    """Who has kept a request to `model` from being answered.

    Args:
        steps: the models on its way, in order.
        answers: how many requests each has answered meanwhile, this one included.
        error: what has become of the request.

    Raises:
        Hangs: the first that has answered none. Where the one before it has been asked by others too, the request may
            still wait there; then `error` is raised.
    """
    for index, (step, count) in enumerate(zip(steps, answers, strict=True)):
        if count == 0:
            if index and answers[index - 1] > 1:
                raise error
            reason = f"a request to {model} had {error}, and {step} has answered nobody"
            raise Hangs(reason, steps[:index]) from None


def health(connection: Connection, models: Collection[str]) -> Health:
    """What the models that answer calls say of themselves, without any work.

    Args:
        models: names of the loaded models.

    Raises:
        NoAnswer, Refused: one is not well, or does not answer.
    """
    told: Any = {}
    for model in (name for name in FRONTS if name in models):
        answer = connection.post(f"/v2/models/{model}/generate", {"health": True}, HEALTH_SECONDS)
        told = json.loads(answer[FRONTS[model]])
    return Health(
        in_flight=told.get("in_flight", 0),
        progress=told.get("progress", 0),
        waits_for=told.get("waits_for", {}),
        decoder_still=told.get("decoder_still", 0.0),
        answers=answered(connection),
    )


def answered(connection: Connection) -> dict[str, int]:
    """How many requests each model has answered, well or not, as Triton counts them."""
    rows = connection.get("/v2/models/stats")["model_stats"]
    return {
        row["name"]: sum(row["inference_stats"][kind]["count"] for kind in ("success", "fail"))
        for row in rows
    }


def _picture() -> bytes:
    """A small PNG with one dark square."""
    pixels = np.full((64, 64, 3), 230, np.uint8)
    pixels[16:48, 16:48] = (60, 60, 160)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
