"""The `segment` call's inputs, checked: raw tensors in, one `SegmentRequest` out, or an error that names the field."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from florence2_sam2.server.errors import InvalidRequest, shown
from florence2_sam2.server.settings import Settings

FORMATS = ("rle", "coco", "geojson", "masks", "preview")
VIEWS = ("full", "compact")
NMS_FORMS = ("box", "mask", "containment")
TASKS = ("caption_grounding", "detection")
PRIORITIES = ("interactive", "bulk")
MAX_BEAMS = 8
MAX_TILES = 4
MAX_PHRASES = 100


@dataclass(frozen=True)
class Options:
    """What the `options` JSON object may say; the field names are its keys.

    `boxes` are xyxy in pixels of the upright picture, or 0..1 when `normalized` is set. `tiles` n > 1: phrases are
    also grounded on n×n overlapping tiles, for small objects on large pictures. With `reduced_decode` a large JPEG is
    decoded at 1/2, 1/4 or 1/8 of its size, which is never less than what the models resize it to.
    """

    formats: tuple[str, ...] = ()
    view: str = "full"
    nms: str = "box"
    task: str = "caption_grounding"
    phrases: tuple[str, ...] | None = None
    boxes: tuple[tuple[float, float, float, float], ...] | None = None
    num_beams: int | None = None
    max_new_tokens: int | None = None
    invert_mask: bool = False
    normalized: bool = False
    tiles: int = 1
    reduced_decode: bool = False
    priority: str = "interactive"


@dataclass(frozen=True)
class SegmentRequest:
    """One checked call. Exactly one of `image` and `image_url` is set; `caption` is "" when Florence-2 writes it."""

    image: bytes | None
    image_url: str | None
    caption: str
    area_threshold: float
    confidence_threshold: float
    nms_threshold: float
    polygon_precision: float
    output_mask: bool
    options: Options

    def parameters(self) -> dict[str, Any]:
        """The settings in force, as the answer echoes them: thresholds, then every option."""
        echoed = {name: getattr(self, name) for name in (*THRESHOLDS, "polygon_precision", "output_mask")}
        return echoed | vars(self.options)


# name → default; each must lie in 0..1, both ends included
THRESHOLDS = {"area_threshold": 0.3, "confidence_threshold": 0.5, "nms_threshold": 0.5}
POLYGON_PRECISION = 0.001

# What Triton hands over: BYTES [1] as bytes, numbers and booleans as arrays, None for an input that was not sent.
RawInputs = Mapping[str, "bytes | npt.NDArray[Any] | None"]


def parse_request(inputs: RawInputs, settings: Settings) -> SegmentRequest:
    """Check every input of one call.

    Raises:
        InvalidRequest: naming the input, what was wrong with it and what would be right.
    """
    image, url = inputs.get("image"), inputs.get("image_url")
    if (image is None) == (url is None):
        given = "neither was" if image is None else "both were"
        raise InvalidRequest("image", f"exactly one of image and image_url is needed, {given} given")
    assert not isinstance(image, np.ndarray)  # the model declares both as BYTES and unpacks them
    caption = _text(inputs, "caption").strip()
    if len(caption.encode()) > settings.max_caption_bytes:
        raise InvalidRequest(
            "caption", f"it has {len(caption.encode())} bytes, the limit is {settings.max_caption_bytes}"
        )
    options = parse_options(_text(inputs, "options"), settings)
    sources = {
        "caption": bool(caption),
        "options.phrases": options.phrases is not None,
        "options.boxes": options.boxes is not None,
        'options.task "detection"': options.task == "detection",
    }
    named = [name for name, used in sources.items() if used]
    if len(named) > 1:
        raise InvalidRequest("options", f"at most one source of boxes is possible, got {' and '.join(named)}")
    return SegmentRequest(
        image=image,
        image_url=None if url is None else _text(inputs, "image_url").strip(),
        caption=caption,
        area_threshold=_fraction(inputs, "area_threshold"),
        confidence_threshold=_fraction(inputs, "confidence_threshold"),
        nms_threshold=_fraction(inputs, "nms_threshold"),
        polygon_precision=_precision(inputs),
        output_mask=bool(_scalar(inputs, "output_mask", False)),
        options=options,
    )


def parse_options(text: str, settings: Settings) -> Options:
    """Read the `options` JSON object.

    Raises:
        InvalidRequest: it is no JSON object, has an unknown key, or a value is of the wrong kind or out of range.
    """
    if not text.strip():
        return Options()
    try:
        body = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("options", f"this is no JSON object ({_brief(error)})") from None
    if not isinstance(body, dict):
        raise InvalidRequest("options", f"a JSON object is needed, not {_kind(body)}")
    values: dict[str, Any] = {}
    for key, value in body.items():
        if key not in _READERS:
            raise InvalidRequest(f"options.{shown(key)}", f"unknown key; the keys are {', '.join(_READERS)}")
        values[key] = _READERS[key](f"options.{key}", value)
    options = Options(**values)
    if options.boxes is not None and len(options.boxes) > settings.max_boxes:
        raise InvalidRequest(
            "options.boxes", f"{len(options.boxes)} boxes are over the limit of {settings.max_boxes}"
        )
    return options


def _text(inputs: RawInputs, name: str) -> str:
    raw = inputs.get(name)
    if raw is None:
        return ""
    assert isinstance(raw, bytes)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(name, f"this is no UTF-8 text (byte {error.start})") from None
    return text.replace("\0", "")


def _scalar(inputs: RawInputs, name: str, default: Any) -> Any:
    raw = inputs.get(name)
    if raw is None:
        return default
    array = np.asarray(raw)
    if array.shape != (1,):
        raise InvalidRequest(name, f"one value of shape [1] is needed, got shape {list(array.shape)}")
    return array[0]


def _fraction(inputs: RawInputs, name: str) -> float:
    value = _shortest(_scalar(inputs, name, THRESHOLDS[name]))
    if not 0 <= value <= 1:  # NaN fails this too
        raise InvalidRequest(name, f"a number from 0 to 1 is needed, got {value}")
    return value


def _precision(inputs: RawInputs) -> float:
    name = "polygon_precision"
    value = _shortest(_scalar(inputs, name, POLYGON_PRECISION))
    if not (math.isfinite(value) and value >= 0):
        raise InvalidRequest(name, f"a number of at least 0 is needed, got {value}")
    return value


def _shortest(value: Any) -> float:
    """The decimal that the caller wrote: FP32 0.3 is 0.30000001 in double precision, and the edge must be at 0.3."""
    return float(str(np.float32(value)))


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not allowed")


def _brief(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:120]


def _kind(value: Any) -> str:
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _choice(*allowed: str) -> Callable[[str, Any], str]:
    def read(field: str, value: Any) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise InvalidRequest(
                field, f"one of {', '.join(allowed)} is needed, got {shown(json.dumps(value))}"
            )
        return value

    return read


def _flag(field: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequest(field, f"true or false is needed, not {_kind(value)}")
    return value


def _whole(low: int, high: int | None = None) -> Callable[[str, Any], int]:
    def read(field: str, value: Any) -> int:
        right = f"from {low} to {high}" if high else f"of at least {low}"
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidRequest(field, f"a whole number {right} is needed, not {_kind(value)}")
        if value < low or (high is not None and value > high):
            raise InvalidRequest(field, f"a whole number {right} is needed, got {shown(str(value))}")
        return value

    return read


def _formats(field: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise InvalidRequest(field, f"a list of {', '.join(FORMATS)} is needed, not {_kind(value)}")
    read = _choice(*FORMATS)
    return tuple(dict.fromkeys(read(field, item) for item in value))


def _phrases(field: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise InvalidRequest(field, "a list of at least one phrase is needed")
    if len(value) > MAX_PHRASES:
        raise InvalidRequest(field, f"{len(value)} phrases are over the limit of {MAX_PHRASES}")
    for item in value:
        if not isinstance(item, str) or not item.strip():
            raise InvalidRequest(
                field, f"each phrase is a text that is not blank, got {shown(json.dumps(item))}"
            )
    return tuple(item.strip() for item in value)


def _boxes(field: str, value: Any) -> tuple[tuple[float, float, float, float], ...]:
    if not isinstance(value, list):
        raise InvalidRequest(field, f"a list of [x1, y1, x2, y2] is needed, not {_kind(value)}")
    boxes = []
    for index, box in enumerate(value):
        right = isinstance(box, list) and len(box) == 4
        if not right or not all(type(x) in (int, float) and abs(x) < 1e9 for x in box):
            raise InvalidRequest(f"{field}[{index}]", "four finite numbers [x1, y1, x2, y2] are needed")
        x1, y1, x2, y2 = (float(x) for x in box)
        boxes.append((x1, y1, x2, y2))
    return tuple(boxes)


# key → reader(field, value); the keys are Options' fields
_READERS: dict[str, Callable[[str, Any], Any]] = {
    "formats": _formats,
    "view": _choice(*VIEWS),
    "nms": _choice(*NMS_FORMS),
    "task": _choice(*TASKS),
    "phrases": _phrases,
    "boxes": _boxes,
    "num_beams": _whole(1, MAX_BEAMS),
    "max_new_tokens": _whole(1),
    "invert_mask": _flag,
    "normalized": _flag,
    "tiles": _whole(1, MAX_TILES),
    "reduced_decode": _flag,
    "priority": _choice(*PRIORITIES),
}
