"""The `result` JSON of one call, in its full and its compact form. All coordinates run along pixel edges."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np

from florence2_sam2.postprocess import CroppedMask, Polygon, union_mask
from florence2_sam2.server.inputs.pictures import data_url, encode_png_mask
from florence2_sam2.server.segment.candidates import Candidate
from florence2_sam2.server.segment.formats import coco_document, geojson_document, preview_png
from florence2_sam2.server.segment.models import Floats, Picture
from florence2_sam2.server.segment.outcome import Outcome
from florence2_sam2.server.segment.request import SegmentRequest
from florence2_sam2.server.segment.shapes import Shape

Json = dict[str, Any]
# By an event loop that others wait for: half a millisecond.
OBJECTS_AT_ONCE, POINTS_AT_ONCE = 16, 4000


class MaskUrl(NamedTuple):
    """Where the mask can be had; until when, if that ends; and what the caller should know about it."""

    url: str
    expires: datetime | None = None
    warning: str | None = None


@dataclass(frozen=True)
class Answer:
    """The call's outputs. `boxes` FP32 [N,4], `scores` FP32 [N] and `labels` are those of the objects, in order."""

    result: Json
    mask_png: bytes
    boxes: Floats
    scores: Floats
    labels: list[str]


def build_answer(
    outcome: Outcome,
    request: SegmentRequest,
    picture: Picture,
    identities: dict[str, Json],
    mask_url: Callable[[bytes], MaskUrl],
    found: Callable[[int, Json], None] | None = None,
    leave_if_cancelled: Callable[[], None] = lambda: None,
) -> Answer:
    """Write the answer.

    Args:
        picture: for the preview.
        identities: what the answer says of each model.
        mask_url: PNG → its URL (an object store may fail; the mask must not be lost).
        found: is told of each object as soon as it is written, with its index.
        leave_if_cancelled: called before each object; raises when nobody waits for the answer.
    """
    began = time.perf_counter()
    options, kept = request.options, outcome.kept
    frame = _Frame(outcome.width, outcome.height, options.normalized)
    warnings = list(outcome.warnings)
    needs_polygons = not request.output_mask or "geojson" in options.formats
    polygons: list[list[Polygon]] = []
    objects: list[Json] = []
    for index, candidate in enumerate(kept):
        leave_if_cancelled()
        if needs_polygons:
            polygons.append(_shape(candidate).polygons(request.polygon_precision))
        if options.view == "full" or found is not None:
            shown = None if request.output_mask else polygons[index]
            objects.append(_object(candidate, shown, frame, options.formats))
            if found is not None:
                found(index, objects[index])

    result: Json = {
        "image": {"width": outcome.width, "height": outcome.height},
        "caption": outcome.caption,
        "caption_source": outcome.caption_source,
    }
    if options.view == "compact":
        result |= _compact(kept, None if request.output_mask else polygons, frame, options.formats)
    else:
        result["objects"] = objects
    result["filtered"] = [_filtered(candidate, kept, frame) for candidate in outcome.dropped]

    mask_png = b""
    if request.output_mask:
        union = union_mask([_mask(candidate) for candidate in kept], outcome.width, outcome.height)
        mask_png = encode_png_mask(~union if options.invert_mask else union)
        place = mask_url(mask_png)
        result["mask_url"] = place.url
        if place.expires is not None:
            result["mask_url_expires"] = place.expires.isoformat().replace("+00:00", "Z")
        warnings += [place.warning] if place.warning else []
    if "coco" in options.formats:
        result["coco"] = coco_document(kept, outcome.width, outcome.height)
    if "geojson" in options.formats:
        result["geojson"] = geojson_document(kept, polygons, frame.points)
    if "preview" in options.formats:
        result["preview"] = data_url(preview_png(picture.full(), kept))
    outcome.timings_ms["postprocess"] += (time.perf_counter() - began) * 1e3
    result |= {
        "parameters": request.parameters(),
        "models": identities,
        "warnings": warnings,
        "timings_ms": {stage: round(value, 2) for stage, value in outcome.timings_ms.items()},
    }
    return Answer(
        result,
        mask_png,
        np.array([frame.box(candidate.box) for candidate in kept], np.float32).reshape(-1, 4),
        np.array([candidate.score for candidate in kept], np.float32),
        [candidate.label for candidate in kept],
    )


def found_boxes(outcome: Outcome, normalized: bool) -> list[Json]:
    """All candidates as they are before SAM2 sees them."""
    frame = _Frame(outcome.width, outcome.height, normalized)
    return [
        {
            "label": candidate.label,
            "box": frame.box(candidate.box),
            "area_ratio": round(candidate.area_ratio, 6),
            "grounding_score": _rounded(candidate.grounding_score),
            "reason": candidate.reason,
        }
        for candidate in outcome.candidates
    ]


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 6)


def is_known(outcome: Outcome, request: SegmentRequest) -> bool:
    """Whether an earlier call has made all that `build_answer` would draw: then it only writes down, and to wake a
    thread for that takes longer."""
    options, shapes = request.options, [_shape(candidate) for candidate in outcome.kept]
    return (
        not request.output_mask
        and set(options.formats) <= {"rle"}
        and len(shapes) <= OBJECTS_AT_ONCE
        and all(shape.is_drawn(request.polygon_precision, "rle" in options.formats) for shape in shapes)
        and sum(shape.points for shape in shapes) <= POINTS_AT_ONCE
    )


def _shape(candidate: Candidate) -> Shape:
    assert candidate.shape is not None
    return candidate.shape


def _mask(candidate: Candidate) -> CroppedMask:
    return _shape(candidate).mask


@dataclass(frozen=True)
class _Frame:
    """Coordinates as the caller wants them: pixels of the upright picture, or 0..1 of its sides."""

    width: int
    height: int
    normalized: bool

    def points(self, ring: np.ndarray) -> list[list[float]]:
        """[n,2] x, y → JSON numbers; whole pixels are written as whole numbers."""
        if not self.normalized:
            whole = np.asarray(ring)
            if np.issubdtype(whole.dtype, np.floating) and np.all(whole == np.rint(whole)):
                whole = whole.astype(np.int64)
            points: list[list[float]] = whole.tolist()
            return points
        scaled: list[list[float]] = np.round(
            np.asarray(ring, np.float64) / [self.width, self.height], 6
        ).tolist()
        return scaled

    def box(self, box: tuple[float, float, float, float]) -> list[float]:
        """The same of x1 y1 x2 y2."""
        if not self.normalized:
            return [int(x) for x in box] if all(float(x).is_integer() for x in box) else list(box)
        (x1, y1), (x2, y2) = self.points(np.array(box, np.float64).reshape(2, 2))
        return [x1, y1, x2, y2]


def _object(
    candidate: Candidate, polygons: list[Polygon] | None, frame: _Frame, formats: tuple[str, ...]
) -> Json:
    shape = _shape(candidate)
    shown: Json = {
        "label": candidate.label,
        "box": frame.box(candidate.box),
        "area_ratio": round(candidate.area_ratio, 6),
        "grounding_score": _rounded(candidate.grounding_score),
        "score": _rounded(candidate.score),
        "mask_area": shape.area,
    }
    if polygons is not None:
        shown["polygons"] = [
            {"exterior": frame.points(part.exterior), "holes": [frame.points(hole) for hole in part.holes]}
            for part in polygons
        ]
    return shown | _mask_formats(shape, formats)


def _mask_formats(shape: Shape, formats: tuple[str, ...]) -> Json:
    extra: Json = {}
    if "rle" in formats:
        extra["rle"] = shape.rle()
    if "masks" in formats:
        extra["mask"] = data_url(encode_png_mask(shape.mask.full()))
    return extra


def _compact(
    kept: list[Candidate], polygons: list[list[Polygon]] | None, frame: _Frame, formats: tuple[str, ...]
) -> Json:
    """Index-aligned lists. With polygons, an object of k parts stands there k times; without, once."""
    parts: list[tuple[Candidate, Polygon | None]] = []
    for index, candidate in enumerate(kept):
        if polygons is None:
            parts.append((candidate, None))
        else:
            parts += [(candidate, part) for part in polygons[index]]
    view: Json = {}
    if polygons is not None:
        view["polygons"] = [frame.points(part.exterior) for _, part in parts if part is not None]
        view["holes"] = [[frame.points(hole) for hole in part.holes] for _, part in parts if part is not None]
    view["labels"] = [candidate.label for candidate, _ in parts]
    view["boxes"] = [frame.box(candidate.box) for candidate, _ in parts]
    view["grounding_scores"] = [_rounded(candidate.grounding_score) for candidate, _ in parts]
    view["scores"] = [_rounded(candidate.score) for candidate, _ in parts]
    extras = [_mask_formats(_shape(candidate), formats) for candidate, _ in parts]
    for name in ("rle", "mask"):
        if any(name in extra for extra in extras):
            view[f"{name}s"] = [extra[name] for extra in extras]
    return view


def _filtered(candidate: Candidate, kept: list[Candidate], frame: _Frame) -> Json:
    shown: Json = {
        "label": candidate.label,
        "box": frame.box(candidate.box),
        "area_ratio": round(candidate.area_ratio, 6),
        "grounding_score": _rounded(candidate.grounding_score),
        "score": _rounded(candidate.score),
        "reason": candidate.reason,
    }
    winner = [index for index, other in enumerate(kept) if other is candidate.suppressed_by]
    if winner:
        shown["suppressed_by"] = winner[0]  # index into the objects
    return shown
