"""What `segment` answers, as values. Coordinates are pixels of the upright picture unless `normalized` is set."""

from __future__ import annotations

import base64
import copy
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from florence2_sam2.client import formats, images, overlay
from florence2_sam2.client.objects import FilteredObject, SegmentedObject, filtered_objects, kept_objects

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True)
class Segmentation:
    """The answer to one call."""

    width: int
    height: int
    caption: str | None
    caption_source: str | None
    """Who wrote the caption: `florence2` or `caller`; `phrases` or `none` where there is none."""
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
    request_id: str | None = field(default=None, compare=False)
    """What the call is known by in the server's logs and traces; older servers tell none."""

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
            objects=kept_objects(body),
            filtered=filtered_objects(body),
            parameters=body.get("parameters", {}),
            models=body.get("models", {}),
            warnings=tuple(body.get("warnings", ())),
            timings_ms=body.get("timings_ms", {}),
            mask_url=mask_url,
            mask_png=mask_png or _png_of(mask_url),
            raw=body,
            picture=picture,
            request_id=body.get("request_id"),
        )

    @property
    def mask_url_expires(self) -> datetime | None:
        """Until when `mask_url` can be read; None: nothing that the server knows of ends that."""
        told = self.raw.get("mask_url_expires")
        return None if told is None else datetime.fromisoformat(told)

    def to_dict(self) -> dict[str, Any]:
        """The server's JSON, as a copy that may be changed."""
        return copy.deepcopy(self.raw)

    def to_json(self, indent: int | None = None) -> str:
        """The server's JSON as text."""
        return json.dumps(self.raw, ensure_ascii=False, indent=indent)

    def to_coco(self, image_id: int = 1, file_name: str | None = None) -> dict[str, Any]:
        """A COCO detection document of this one picture: see `florence2_sam2.client.formats.coco`.

        Raises:
            ValueError: there are objects but neither RLEs nor polygons, since one mask was asked for.
        """
        return formats.coco([self], image_id, [file_name])

    def to_geojson(self) -> dict[str, Any]:
        """A GeoJSON FeatureCollection, one MultiPolygon an object: see `florence2_sam2.client.formats.geojson`."""
        return formats.geojson(self)

    def to_supervision(self) -> supervision.Detections:
        """The objects as Roboflow's `supervision.Detections`, their labels under `data["class_name"]`.

        Raises:
            ModuleNotFoundError: supervision is not installed (the extra `supervision`).
            ValueError: as `to_coco`.
        """
        return formats.to_supervision(self)

    def mask(self) -> npt.NDArray[np.bool_]:
        """All kept objects in one mask, bool [height, width].

        From `mask_png` where there is one (then as it was asked for: inverted under `invert_mask`), else from each
        object's mask.
        """
        if self.mask_png:
            with Image.open(io.BytesIO(self.mask_png)) as image:
                return np.asarray(image.convert("L")) > 127
        return np.asarray(self.masks().any(axis=0))

    def masks(self) -> npt.NDArray[np.bool_]:
        """`SegmentedObject.mask` of each of `objects`, bool [N, height, width].

        Raises:
            ValueError: there are objects but neither RLEs nor polygons, since one mask was asked for.
        """
        masks = np.zeros((len(self.objects), self.height, self.width), dtype=np.bool_)
        for mask, item in zip(masks, self.objects, strict=True):
            mask[:] = item.mask()
        return masks

    def cutout(self, item: SegmentedObject | int, image: images.Picture | None = None) -> Image.Image:
        """One object alone, RGBA, transparent around it, as large as its mask.

        Args:
            item: one of `objects`, or its index.
            image: the picture that was segmented; without it the one that the client sent.

        Raises:
            ValueError: no picture is known (a URL was sent), it is of another size, or the object has no mask.
            IndexError: there is no object of that index.
        """
        thing = self.objects[item] if isinstance(item, int) else item
        upright = self._upright(image)
        mask = thing.cropped_mask()
        x1, y1, x2, y2 = mask.box()
        cut = upright.crop((x1, y1, x2, y2)).convert("RGBA")
        alpha = mask.full()[y1:y2, x1:x2]
        cut.putalpha(Image.fromarray(alpha.astype(np.uint8) * 255))
        return cut

    def overlay(self, image: images.Picture | None = None) -> Image.Image:
        """The picture with the objects drawn on it, RGB [height, width]: see `florence2_sam2.client.overlay`.

        `image` is the picture that was segmented; without it the one that the client sent.

        Raises:
            ValueError: no picture is known (a URL was sent), or it is of another size.
        """
        upright = self._upright(image)
        if self.mask_png and not any(item.polygons or item.rle for item in self.objects):
            return overlay.draw(upright, [overlay.Layer(None, None, self.mask())])
        layers = [
            overlay.Layer(item.label, item.score, mask)
            for item, mask in zip(self.objects, self.masks(), strict=True)
        ]
        return overlay.draw(upright, layers)

    def _upright(self, image: images.Picture | None) -> Image.Image:
        picture = self.picture if image is None else image
        if picture is None:
            raise ValueError("a URL was segmented, so the picture is not here: give it as `image`")
        upright = images.decode(picture)
        if upright.size != (self.width, self.height):
            raise ValueError(
                f"the picture is {upright.width}×{upright.height}, the answer's {self.width}×{self.height}"
            )
        return upright


def _png_of(url: str | None) -> bytes | None:
    start = "data:image/png;base64,"
    return base64.b64decode(url.removeprefix(start)) if url and url.startswith(start) else None
