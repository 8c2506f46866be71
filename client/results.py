"""What `segment` answers, as values. Coordinates are pixels of the upright picture unless `normalized` is set."""

from __future__ import annotations

import base64
import copy
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from florence2_sam2.client import images, overlay, raster

Box = tuple[float, float, float, float]
Point = tuple[float, float]


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
    """COCO run lengths {"size": [height, width], "counts": …}, when `formats` has "rle"."""


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


@dataclass(frozen=True)
class Segmentation:
    """The answer to one call."""

    width: int
    height: int
    caption: str | None
    caption_source: str | None
    """Who wrote the caption: `florence2`, `request` …; None when there is none."""
    objects: tuple[SegmentedObject, ...]
    """Those kept, in the order they were found. Under `view="compact"` each part of an object is an entry."""
    filtered: tuple[FilteredObject, ...]
    parameters: Mapping[str, Any]
    """The settings that were used, the defaults among them."""
    models: Mapping[str, Mapping[str, Any]]
    """Checkpoint, hash and precision of each model, and what weights Florence-2's decoder has."""
    warnings: tuple[str, ...]
    timings_ms: Mapping[str, float]
    mask_url: str | None
    """The flattened mask as a URL, when `output_mask` was asked for."""
    mask_png: bytes | None = field(repr=False)
    """The same as PNG bytes: mode L, 0 and 255, the size of the picture."""
    raw: dict[str, Any] = field(repr=False)
    """The server's JSON as it came: views and formats that have no field of their own are read from here."""
    picture: images.Picture | None = field(default=None, repr=False, compare=False)
    """The picture that was sent, for `overlay`."""

    @classmethod
    def from_json(
        cls, body: dict[str, Any], mask_png: bytes = b"", picture: images.Picture | None = None
    ) -> Self:
        """Read the JSON form of an answer (`to_dict`'s, or the `result` output's).

        Raises:
            KeyError, TypeError, ValueError: it is not of that form.
        """
        mask_url = body.get("mask_url")
        return cls(
            width=int(body["image"]["width"]),
            height=int(body["image"]["height"]),
            caption=body.get("caption"),
            caption_source=body.get("caption_source"),
            objects=tuple(map(_object, body["objects"])) if "objects" in body else _from_compact(body),
            filtered=tuple(_filtered(item) for item in body.get("filtered", ())),
            parameters=body.get("parameters", {}),
            models=body.get("models", {}),
            warnings=tuple(body.get("warnings", ())),
            timings_ms=body.get("timings_ms", {}),
            mask_url=mask_url,
            mask_png=mask_png or _png_of(mask_url),
            raw=body,
            picture=picture,
        )

    def to_dict(self) -> dict[str, Any]:
        """The server's JSON, as a copy that may be changed."""
        return copy.deepcopy(self.raw)

    def to_json(self, indent: int | None = None) -> str:
        """The server's JSON as text."""
        return json.dumps(self.raw, ensure_ascii=False, indent=indent)

    def mask(self) -> npt.NDArray[np.bool_]:
        """All kept objects in one mask, bool [height, width].

        From `mask_png` where there is one (then as it was asked for: inverted under `invert_mask`), else from
        the
        polygons: exact at `polygon_precision` 0, simplified as they are at others.
        """
        if self.mask_png:
            with Image.open(io.BytesIO(self.mask_png)) as image:
                return np.asarray(image.convert("L")) > 127
        return np.asarray(self.masks().any(axis=0))

    def masks(self) -> npt.NDArray[np.bool_]:
        """One mask for each of `objects` from its polygons, bool [N, height, width].

        Raises:
            ValueError: there are objects but no polygons, since one mask was asked for.
        """
        masks = np.zeros((len(self.objects), self.height, self.width), dtype=np.bool_)
        for mask, item in zip(masks, self.objects, strict=True):
            if not item.polygons and self.mask_url:
                raise ValueError("the answer has one mask (output_mask) and no polygons to make masks from")
            for polygon in item.polygons:
                rings = [self._in_pixels(ring) for ring in (polygon.exterior, *polygon.holes)]
                mask |= raster.fill(rings, self.height, self.width)
        return masks

    def overlay(self, image: images.Picture | None = None) -> Image.Image:
        """The picture with the objects drawn on it, RGB [height, width]: see `florence2_sam2.client.overlay`.

        `image` is the picture that was segmented; without it the one that the client sent.

        Raises:
            ValueError: no picture is known (a URL was sent), or it is of another size.
        """
        picture = self.picture if image is None else image
        if picture is None:
            raise ValueError("a URL was segmented, so the picture is not here: give it to overlay(image)")
        upright = images.decode(picture)
        if upright.size != (self.width, self.height):
            raise ValueError(
                f"the picture is {upright.width}×{upright.height}, the answer's {self.width}×{self.height}"
            )
        if not any(item.polygons for item in self.objects) and self.mask_png:
            return overlay.draw(upright, [overlay.Layer(None, None, self.mask())])
        layers = [
            overlay.Layer(item.label, item.score, mask)
            for item, mask in zip(self.objects, self.masks(), strict=True)
        ]
        return overlay.draw(upright, layers)

    def _in_pixels(self, ring: tuple[Point, ...]) -> raster.Ring:
        if not self.parameters.get("normalized"):
            return ring
        return [(x * self.width, y * self.height) for x, y in ring]


def _object(item: Mapping[str, Any]) -> SegmentedObject:
    return SegmentedObject(
        label=item["label"],
        box=_box(item["box"]),
        area_ratio=item["area_ratio"],
        score=item["score"],
        mask_area=item.get("mask_area"),
        polygons=tuple(
            Polygon(_ring(polygon["exterior"]), tuple(_ring(hole) for hole in polygon.get("holes", ())))
            for polygon in item.get("polygons", ())
        ),
        rle=item.get("rle"),
    )


def _from_compact(body: Mapping[str, Any]) -> tuple[SegmentedObject, ...]:
    """The entries of the compact view's index-aligned lists."""
    area = (
        1
        if body.get("parameters", {}).get("normalized")
        else body["image"]["width"] * body["image"]["height"]
    )
    count = len(body["labels"])
    entries = []
    for label, box, score, exterior, holes, rle in zip(
        body["labels"],
        map(_box, body["boxes"]),
        body["scores"],
        body.get("polygons", [None] * count),
        body.get("holes", [()] * count),
        body.get("rles", [None] * count),
        strict=True,
    ):
        ratio = (box[2] - box[0]) * (box[3] - box[1]) / area
        parts = () if exterior is None else (Polygon(_ring(exterior), tuple(map(_ring, holes))),)
        entries.append(SegmentedObject(label, box, ratio, score, None, parts, rle))
    return tuple(entries)


def _filtered(item: Mapping[str, Any]) -> FilteredObject:
    return FilteredObject(
        item["label"],
        _box(item["box"]),
        item["area_ratio"],
        item["score"],
        item["reason"],
        item.get("suppressed_by"),
    )


def _box(values: list[float]) -> Box:
    x1, y1, x2, y2 = values
    return x1, y1, x2, y2


def _ring(points: list[list[float]]) -> tuple[Point, ...]:
    return tuple((x, y) for x, y in points)


def _png_of(url: str | None) -> bytes | None:
    start = "data:image/png;base64,"
    return base64.b64decode(url.removeprefix(start)) if url and url.startswith(start) else None
