"""One object of an answer: what it is called, where it is, and its mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from florence2_sam2.client import raster
from florence2_sam2.postprocess.masks import CroppedMask
from florence2_sam2.postprocess.rle import decode_rle

Box = tuple[float, float, float, float]
Point = tuple[float, float]
Size = tuple[int, int]


@dataclass(frozen=True)
class Polygon:
    """One part of an object: its outline and the holes in it, closed rings of (x, y) without a repeated end."""

    exterior: tuple[Point, ...]
    holes: tuple[tuple[Point, ...], ...] = ()


@dataclass(frozen=True)
class SegmentedObject:
    """One object that was kept."""

    label: str
    box: Box
    """x1, y1, x2, y2 of the grounding box, not of the mask."""
    area_ratio: float
    """The box's area over the picture's, 0…1."""
    score: float | None
    """SAM2's predicted IoU of the mask, 0…1."""
    mask_area: int | None
    """Pixels in the mask; None under `view="compact"`."""
    polygons: tuple[Polygon, ...] = ()
    """Empty when one mask was asked for instead (`output_mask`)."""
    rle: Mapping[str, Any] | None = None
    """COCO run lengths {"size": [height, width], "counts": …} of the whole object, when `formats` has "rle"."""
    size: Size = field(default=(0, 0), kw_only=True, repr=False)
    """(height, width) of the picture."""
    normalized: bool = field(default=False, kw_only=True, repr=False)
    """Whether `box` and `polygons` are fractions of the picture's width and height."""
    grounding_score: float | None = field(default=None, kw_only=True)
    """How sure Florence-2 was of label and box, 0…1: the geometric mean of its tokens' probabilities. Good for putting
    objects in order; no chance of being right. None for the caller's own boxes."""
    is_part: bool = field(default=False, kw_only=True, repr=False)
    """Whether `polygons` is one part of the object: so it is under `view="compact"`."""

    def mask(self) -> npt.NDArray[np.bool_]:
        """The object's mask in the whole picture, bool [height, width]; of a part, the part's.

        From `rle`, exactly, where there is one; else, and of a part, from the polygons: exactly at `polygon_precision`
        0, simplified as they are at others.

        Raises:
            ValueError: there are neither, since one mask was asked for.
        """
        if self.rle is not None and not (self.is_part and self.polygons):
            return decode_rle(self.rle)
        if not self.polygons:
            raise ValueError("the answer has one mask (output_mask) and no polygons to make masks from")
        mask = np.zeros(self.size, dtype=np.bool_)
        for polygon in self.polygons:
            rings = [self._in_pixels(ring) for ring in (polygon.exterior, *polygon.holes)]
            mask |= raster.fill(rings, *self.size)
        return mask

    def cropped_mask(self) -> CroppedMask:
        """The part of `mask()` that has the object: `bits` bool [h, w], whose top left pixel is (`x`, `y`).

        Raises:
            ValueError: as `mask`.
        """
        return CroppedMask.from_full(self.mask())

    def pixel_box(self) -> Box:
        """`box` in pixels, whatever the answer's coordinates are."""
        if not self.normalized:
            return self.box
        (height, width), (x1, y1, x2, y2) = self.size, self.box
        return x1 * width, y1 * height, x2 * width, y2 * height

    def _in_pixels(self, ring: tuple[Point, ...]) -> raster.Ring:
        if not self.normalized:
            return ring
        height, width = self.size
        return [(x * width, y * height) for x, y in ring]


@dataclass(frozen=True)
class FilteredObject:
    """One object that was found and not kept."""

    label: str
    box: Box
    area_ratio: float
    score: float | None
    """None when it was dropped before SAM2 saw it."""
    reason: str
    """The filter that dropped it: `area`, `confidence`, `nms`, …"""
    suppressed_by: int | None = None
    """Index of the object it is a duplicate of, when that one was kept."""
    grounding_score: float | None = None
    """As `SegmentedObject`'s."""


def kept_objects(body: Mapping[str, Any]) -> tuple[SegmentedObject, ...]:
    """Those of an answer's JSON, of either view.

    Raises:
        KeyError, TypeError, ValueError: it is not of that form.
    """
    size = int(body["image"]["height"]), int(body["image"]["width"])
    normalized = bool(body.get("parameters", {}).get("normalized"))
    if "objects" not in body:
        return _from_compact(body, size, normalized)
    return tuple(object_of(item, size, normalized) for item in body["objects"])


def object_of(item: Mapping[str, Any], size: Size, normalized: bool) -> SegmentedObject:
    """One of an answer's `objects`.

    Raises:
        KeyError, TypeError, ValueError: it is not of that form.
    """
    return SegmentedObject(
        label=item["label"],
        box=box_of(item["box"]),
        area_ratio=item["area_ratio"],
        score=item["score"],
        mask_area=item.get("mask_area"),
        polygons=tuple(
            Polygon(_ring(polygon["exterior"]), tuple(_ring(hole) for hole in polygon.get("holes", ())))
            for polygon in item.get("polygons", ())
        ),
        rle=item.get("rle"),
        size=size,
        normalized=normalized,
        grounding_score=item.get("grounding_score"),
    )


def filtered_objects(body: Mapping[str, Any]) -> tuple[FilteredObject, ...]:
    """As `kept_objects`."""
    return tuple(
        FilteredObject(
            item["label"],
            box_of(item["box"]),
            item["area_ratio"],
            item["score"],
            item["reason"],
            item.get("suppressed_by"),
            item.get("grounding_score"),
        )
        for item in body.get("filtered", ())
    )


def _from_compact(body: Mapping[str, Any], size: Size, normalized: bool) -> tuple[SegmentedObject, ...]:
    """The entries of the compact view's index-aligned lists."""
    area = 1 if normalized else size[0] * size[1]
    count = len(body["labels"])
    entries = []
    for label, box, score, exterior, holes, rle, grounding in zip(
        body["labels"],
        map(box_of, body["boxes"]),
        body["scores"],
        body.get("polygons", [None] * count),
        body.get("holes", [()] * count),
        body.get("rles", [None] * count),
        body.get("grounding_scores", [None] * count),
        strict=True,
    ):
        ratio = (box[2] - box[0]) * (box[3] - box[1]) / area
        parts = () if exterior is None else (Polygon(_ring(exterior), tuple(map(_ring, holes))),)
        entries.append(
            SegmentedObject(
                label,
                box,
                ratio,
                score,
                None,
                parts,
                rle,
                size=size,
                normalized=normalized,
                grounding_score=grounding,
                is_part=True,
            )
        )
    return tuple(entries)


def box_of(values: list[float]) -> Box:
    """Four numbers of an answer, as a box."""
    x1, y1, x2, y2 = values
    return x1, y1, x2, y2


def _ring(points: list[list[float]]) -> tuple[Point, ...]:
    return tuple((x, y) for x, y in points)
