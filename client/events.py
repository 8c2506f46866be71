"""What `stream` gives while a picture is segmented, in this order; the last event has what `segment` would answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from tritonclient.grpc import InferInput, InferRequestedOutput

from florence2_sam2.client import images, request
from florence2_sam2.client.marks import Marks
from florence2_sam2.client.objects import Box, SegmentedObject, box_of, object_of
from florence2_sam2.client.results import Segmentation

MODEL = "segment_stream"


@dataclass(frozen=True)
class Started:
    """The server has read the picture."""

    width: int
    height: int
    request_id: str | None = None
    """As `Segmentation.request_id`."""


@dataclass(frozen=True)
class CaptionText:
    """The caption as far as it is written: all of it so far. A search with beams may change its end again."""

    text: str


@dataclass(frozen=True)
class CaptionWritten:
    """The caption, and who wrote it (as `Segmentation.caption_source`)."""

    caption: str
    source: str


@dataclass(frozen=True)
class FoundBox:
    """A box that was found, in the answer's coordinates."""

    label: str
    box: Box
    area_ratio: float
    grounding_score: float | None
    reason: str | None
    """None: SAM2 will see it; else why not (`area` …)."""


@dataclass(frozen=True)
class BoxesFound:
    """All boxes, those that go no further too."""

    boxes: tuple[FoundBox, ...]


@dataclass(frozen=True)
class MasksMade:
    """SAM2 has seen `done` of `of` boxes."""

    done: int
    of: int


@dataclass(frozen=True)
class ObjectDone:
    """An object of the answer, `result.objects[index]`, which no filter will take away any more."""

    index: int
    object: SegmentedObject


@dataclass(frozen=True)
class Finished:
    """The answer."""

    result: Segmentation


Event: TypeAlias = Started | CaptionText | CaptionWritten | BoxesFound | MasksMade | ObjectDone | Finished


_ORDER = (Started, CaptionText, CaptionWritten, BoxesFound, MasksMade, ObjectDone, Finished)


def place(event: Event) -> tuple[int, int]:
    """Where it stands among the events of a call: which kind, and how far within it."""
    match event:
        case CaptionText():
            far = len(event.text)
        case MasksMade():
            far = event.done
        case ObjectDone():
            far = event.index
        case _:
            far = 0
    return _ORDER.index(type(event)), far


def wanted_outputs(settings: request.Settings) -> list[InferRequestedOutput]:
    """What is asked of the model."""
    names = ["event", "mask_png"] if settings.get("output_mask") else ["event"]
    return [InferRequestedOutput(name) for name in names]


@dataclass(frozen=True)
class Call:
    """One call: what is sent, and how its responses are read."""

    inputs: list[InferInput]
    outputs: list[InferRequestedOutput]
    encoded: images.Encoded
    normalized: bool
    known: Marks

    @classmethod
    def of(cls, encoded: images.Encoded, settings: request.Settings, known: Marks) -> Call:
        """Raises TypeError for a setting that does not exist, or one of the wrong Python type."""
        inputs = request.to_inputs(encoded, settings)
        return cls(inputs, wanted_outputs(settings), encoded, bool(settings.get("normalized")), known)

    def read(self, answer: Any, started: Started | None) -> Event | None:
        """The event of one response, tritonclient's InferResult; None for one that this client does not know.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: it is of another form.
        """
        body = json.loads(answer.as_numpy("event").item())
        if body["event"] == "result":
            mask = answer.as_numpy("mask_png")
            png = b"" if mask is None else mask.item()
            return Finished(Segmentation.from_json(body["result"], png, self.encoded.data))
        return self._read(body, started)

    def _read(self, body: Mapping[str, Any], started: Started | None) -> Event | None:
        match body["event"]:
            case "started":
                return Started(body["image"]["width"], body["image"]["height"], body.get("request_id"))
            case "text":
                return CaptionText(body["text"])
            case "caption":
                return CaptionWritten(body["caption"], body["caption_source"])
            case "boxes":
                return BoxesFound(tuple(map(_found_box, body["boxes"])))
            case "masks":
                return MasksMade(body["done"], body["of"])
            case "object":
                if started is None:
                    raise ValueError("an object came before the picture's size")
                size = started.height, started.width
                return ObjectDone(body["index"], object_of(body["object"], size, self.normalized))
        return None


def _found_box(item: Mapping[str, Any]) -> FoundBox:
    return FoundBox(
        item["label"], box_of(item["box"]), item["area_ratio"], item["grounding_score"], item["reason"]
    )
