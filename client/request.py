"""A caller's settings as tensors of the `segment` model.

What is not set is not sent: the server has defaults. But for one: run lengths are asked for, which objects make their
masks of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferInput, InferRequestedOutput

from florence2_sam2.client.images import Encoded

MODEL = "segment"

Format = Literal["rle", "coco", "geojson", "masks", "preview"]


class Settings(TypedDict, total=False):
    """Settings of one call. One that is absent or None has the server's default."""

    caption: str | None
    """The caller's own caption to ground; without it Florence-2 writes one."""
    area_threshold: float | None
    """Drop a box that covers more than this share of the picture."""
    confidence_threshold: float | None
    """Drop a mask whose SAM2 score is lower."""
    nms_threshold: float | None
    """Drop an object that overlaps a better one by more than this IoU."""
    polygon_precision: float | None
    """Tolerance of simplification as a fraction of the outline's length; 0 keeps every pixel edge."""
    output_mask: bool | None
    """Answer one mask (`mask_url`, `mask_png`) instead of polygons."""
    formats: Sequence[Format] | None
    """Forms to add to the answer; `("rle",)`, which exact masks are made of, unless `output_mask` is set."""
    view: Literal["full", "compact"] | None
    """`compact`: index-aligned lists instead of objects, to be read from `Segmentation.raw`."""
    nms: Literal["box", "mask", "containment"] | None
    """What overlap means when duplicates are dropped."""
    task: Literal["caption_grounding", "detection"] | None
    """`detection`: Florence-2's object detection instead of caption and grounding."""
    phrases: Sequence[str] | None
    """Nouns to look for; no caption is written."""
    boxes: Sequence[Sequence[float]] | npt.NDArray[Any] | None
    """The caller's own boxes [[x1, y1, x2, y2], …] in pixels; Florence-2 is skipped."""
    num_beams: int | None
    """Beams of Florence-2's search, 1 (greedy) to 8; the checkpoint's own by default."""
    max_new_tokens: int | None
    """Limit on the length of what Florence-2 writes."""
    invert_mask: bool | None
    """The background instead of the objects in the flattened mask."""
    normalized: bool | None
    """Coordinates, those of `boxes` too, as fractions of width and height."""
    tiles: int | None
    """Look again on n×n overlapping tiles: for small objects on large pictures."""
    reduced_decode: bool | None
    """Decode a large JPEG at 1/2, 1/4 or 1/8 of its size, never below what the models resize it to: faster, and masks
    change a little."""
    priority: Literal["interactive", "bulk"] | None
    """`bulk` lets interactive requests pass."""


_NUMBERS = ("area_threshold", "confidence_threshold", "nms_threshold", "polygon_precision")


def require_known(settings: Mapping[str, Any], known: type = Settings, call: str = MODEL) -> None:
    """Raises TypeError for a setting that does not exist."""
    unknown = settings.keys() - known.__annotations__.keys()
    if unknown:
        raise TypeError(f"{call}() has no setting {', '.join(map(repr, sorted(unknown)))}")


def to_inputs(image: Encoded, settings: Settings) -> list[InferInput]:
    """The tensors of one call, each of shape [1]. Settings without a tensor of their own go into `options`.

    Raises:
        TypeError: a setting that does not exist, or one of the wrong Python type.
    """
    require_known(settings)
    given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    inputs = [
        bytes_tensor("image", image.data)
        if image.data is not None
        else bytes_tensor("image_url", str(image.url).encode())
    ]
    options: dict[str, Any] = {}
    if given.setdefault("formats", () if given.get("output_mask") else ("rle",)) == ():
        del given["formats"]
    for name, value in given.items():
        if name == "caption":
            inputs.append(text_tensor(name, value))
        elif name in _NUMBERS:
            inputs.append(_number(name, value))
        elif name == "output_mask":
            inputs.append(_flag(name, value))
        else:
            options[name] = plain(name, value)
    if options:
        inputs.append(bytes_tensor("options", json.dumps(options, ensure_ascii=False).encode()))
    return inputs


def wanted_outputs(settings: Settings) -> list[InferRequestedOutput]:
    """`result`, and `mask_png` when a mask is asked for: the other outputs repeat what the JSON says."""
    names = ["result", "mask_png"] if settings.get("output_mask") else ["result"]
    return [InferRequestedOutput(name) for name in names]


def plain(name: str, value: Any) -> Any:
    """The option `name`'s `value` as JSON types.

    Raises:
        TypeError: a string where several are wanted.
    """
    if name in ("phrases", "formats"):
        # A string is a sequence of strings too, and its letters would be looked for one by one.
        if isinstance(value, str):
            raise TypeError(f"{name}: a list of strings is wanted; write [{value!r}]")
        return list(value)
    if name == "boxes":
        return np.asarray(value, dtype=np.float64).tolist()
    return value.item() if isinstance(value, np.generic) else value


def _number(name: str, value: Any) -> InferInput:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: a number is wanted, not {value!r}")
    return tensor(name, "FP32", np.array([value], dtype=np.float32))


def _flag(name: str, value: Any) -> InferInput:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: True or False is wanted, not {value!r}")
    return tensor(name, "BOOL", np.array([value], dtype=np.bool_))


def text_tensor(name: str, value: str) -> InferInput:
    """BYTES [1]: `value` in UTF-8. Raises TypeError for what is no string."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: a string is wanted, not {type(value).__name__}")
    return bytes_tensor(name, value.encode())


def bytes_tensor(name: str, value: bytes) -> InferInput:
    """BYTES [1]."""
    # np.array([value]) would make a fixed-width string of it and cut trailing NULs.
    array = np.empty(1, dtype=np.object_)
    array[0] = value
    return tensor(name, "BYTES", array)


def tensor(name: str, datatype: str, array: npt.NDArray[Any]) -> InferInput:
    """`array` as a tensor of its own shape."""
    sent = InferInput(name, list(array.shape), datatype)
    sent.set_data_from_numpy(array)
    return sent
