"""The answer's other forms: COCO annotations, GeoJSON features, a preview picture."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from florence2_sam2.postprocess import Polygon, box_xyxy_to_xywh
from florence2_sam2.server.segment.candidates import Candidate
from florence2_sam2.server.segment.models import Pixels

Json = dict[str, Any]

PREVIEW_SIDE = 1024  # longest side of a preview, pixels
FILL = 0.45  # opacity of an object's colour


def coco_document(kept: list[Candidate], width: int, height: int) -> Json:
    """A COCO detection document of one image: exact RLE segmentations, boxes as xywh, one category a label."""
    labels = list(dict.fromkeys(candidate.label for candidate in kept))
    annotations = []
    for index, candidate in enumerate(kept):
        assert candidate.shape is not None
        box = box_xyxy_to_xywh(np.array([candidate.box], np.float64))[0]
        annotations.append(
            {
                "id": index + 1,
                "image_id": 1,
                "category_id": labels.index(candidate.label) + 1,
                "segmentation": candidate.shape.rle(),
                "bbox": [float(x) for x in box],
                "area": candidate.shape.area,
                "iscrowd": 0,
                "grounding_score": candidate.grounding_score,
                "score": candidate.score,
            }
        )
    return {
        "images": [{"id": 1, "width": width, "height": height}],
        "annotations": annotations,
        "categories": [{"id": index + 1, "name": label} for index, label in enumerate(labels)],
    }


def geojson_document(
    kept: list[Candidate],
    polygons: list[list[Polygon]],
    points: Callable[[npt.NDArray[Any]], list[list[float]]],
) -> Json:
    """A FeatureCollection: one MultiPolygon a kept object, rings closed, in the picture's frame (y runs down)."""

    def closed(ring: npt.NDArray[Any]) -> list[list[float]]:
        corners = points(ring)
        return [*corners, corners[0]]

    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": {
                    "type": "MultiPolygon",
                    "coordinates": [[closed(part.exterior), *map(closed, part.holes)] for part in parts],
                },
                "properties": {
                    "label": candidate.label,
                    "grounding_score": candidate.grounding_score,
                    "score": candidate.score,
                },
            }
            for candidate, parts in zip(kept, polygons, strict=True)
        ],
    }


def preview_png(picture: Pixels, kept: list[Candidate]) -> bytes:
    """The picture with each object tinted and outlined, PNG, at most `PREVIEW_SIDE` pixels a side."""
    shown = picture.copy()
    for index, candidate in enumerate(kept):
        mask = candidate.mask
        assert mask is not None
        rows, columns = mask.bits.shape
        if not mask.bits.any():
            continue
        colour = (
            np.array(colorsys.hsv_to_rgb(index * 0.618 % 1, 0.85, 1.0)) * 255
        )  # golden-ratio steps: far apart
        region = shown[mask.y : mask.y + rows, mask.x : mask.x + columns]
        tinted = cv2.addWeighted(region, 1 - FILL, np.full_like(region, colour.astype(np.uint8)), FILL, 0)
        region[mask.bits] = tinted[mask.bits]
        outline, _ = cv2.findContours(mask.bits.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        thickness = max(1, round(max(picture.shape[:2]) / 500))
        cv2.drawContours(shown, outline, -1, colour.tolist(), thickness, offset=(mask.x, mask.y))
    scale = PREVIEW_SIDE / max(shown.shape[:2])
    if scale < 1:
        size = (max(1, round(shown.shape[1] * scale)), max(1, round(shown.shape[0] * scale)))
        shown = np.asarray(cv2.resize(shown, size, interpolation=cv2.INTER_AREA), np.uint8)
    encoded, png = cv2.imencode(".png", cv2.cvtColor(shown, cv2.COLOR_RGB2BGR))
    assert encoded
    return png.tobytes()
