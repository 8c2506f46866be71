"""An answer in the forms that other tools read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from florence2_sam2.client.objects import Point, Polygon, SegmentedObject
from florence2_sam2.postprocess.rle import encode_rle

if TYPE_CHECKING:
    import supervision

    from florence2_sam2.client.results import Segmentation


def coco(
    results: Sequence[Segmentation], first_image: int = 1, file_names: Sequence[str | None] = ()
) -> dict[str, Any]:
    """A COCO detection document of one or more pictures.

    Each object is an annotation with its mask as compressed RLE (from the server where it sent it, else of the
    polygons), its box as [x, y, width, height] in pixels, its mask's area, SAM2's `score` and Florence-2's
    `grounding_score`; each label is a category. Ids of images count from `first_image`, those of annotations and
    categories from 1; `file_names` are those of the pictures, in order.

    Raises:
        ValueError: an object has neither RLE nor polygons, since one mask was asked for.
    """
    names = [*file_names, *[None] * (len(results) - len(file_names))]
    categories: dict[str, int] = {}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (result, name) in enumerate(zip(results, names, strict=True), first_image):
        image = {"id": image_id, "width": result.width, "height": result.height}
        images.append(image if name is None else {**image, "file_name": name})
        for item in result.objects:
            mask = item.cropped_mask()
            whole = item.rle is not None and not item.is_part
            x1, y1, x2, y2 = item.pixel_box()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": categories.setdefault(item.label, len(categories) + 1),
                    "segmentation": dict(item.rle) if whole and item.rle else encode_rle(mask),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": mask.area,
                    "iscrowd": 0,
                    "grounding_score": item.grounding_score,
                    "score": item.score,
                }
            )
    listed = [{"id": index, "name": label} for label, index in categories.items()]
    return {"images": images, "annotations": annotations, "categories": listed}


def geojson(result: Segmentation) -> dict[str, Any]:
    """A FeatureCollection: one MultiPolygon an object, rings closed, with `label`, `grounding_score` and `score` as
    properties.

    Coordinates are the answer's: pixels of the picture, or fractions of it; y runs down.

    Raises:
        ValueError: an object has no polygons, since one mask was asked for.
    """
    return {"type": "FeatureCollection", "features": [_feature(item) for item in result.objects]}


def _feature(item: SegmentedObject) -> Mapping[str, Any]:
    if not item.polygons:
        raise ValueError("the answer has one mask (output_mask) and no polygons")
    return {
        "type": "Feature",
        "geometry": {"type": "MultiPolygon", "coordinates": [_rings(part) for part in item.polygons]},
        "properties": {
            "label": item.label,
            "grounding_score": item.grounding_score,
            "score": item.score,
        },
    }


def _rings(polygon: Polygon) -> list[list[list[float]]]:
    def closed(ring: tuple[Point, ...]) -> list[list[float]]:
        return [list(point) for point in (*ring, ring[0])]

    return [closed(polygon.exterior), *map(closed, polygon.holes)]


def to_supervision(result: Segmentation) -> supervision.Detections:
    """Boxes in pixels, masks, scores as confidence; classes are numbered by label, in order of appearance.

    Raises:
        ModuleNotFoundError: supervision is not installed.
        ValueError: as `coco`.
    """
    try:
        import supervision
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "supervision is not installed: pip install 'florence2-sam2[supervision]'", name=error.name
        ) from error
    labels = [item.label for item in result.objects]
    numbers = {label: index for index, label in enumerate(dict.fromkeys(labels))}
    scores = [np.nan if item.score is None else item.score for item in result.objects]
    return supervision.Detections(
        xyxy=np.array([item.pixel_box() for item in result.objects], np.float32).reshape(-1, 4),
        mask=result.masks(),
        confidence=np.array(scores, np.float32),
        class_id=np.array([numbers[label] for label in labels], int),
        data={"class_name": np.array(labels, dtype=str)},
    )
