"""From the models' numbers to answers: numpy in, numpy out, no I/O.

Only what makes polygons needs OpenCV, and loads it when it is first asked for: clients use the rest without.
"""

from typing import TYPE_CHECKING, Any

from florence2_sam2.postprocess.boxes import (
    box_area_ratios,
    box_iou_matrix,
    box_xyxy_to_xywh,
    clip_boxes,
    normalize_boxes,
)
from florence2_sam2.postprocess.filters import area_filter, confidence_filter
from florence2_sam2.postprocess.masks import CroppedMask, union_mask, upsample_mask
from florence2_sam2.postprocess.nms import Suppression, nms, nms_containment, nms_masks
from florence2_sam2.postprocess.rle import decode_rle, encode_rle

if TYPE_CHECKING:
    from florence2_sam2.postprocess.polygons import Polygon, mask_to_polygons

__all__ = [
    "CroppedMask",
    "Polygon",
    "Suppression",
    "area_filter",
    "box_area_ratios",
    "box_iou_matrix",
    "box_xyxy_to_xywh",
    "clip_boxes",
    "confidence_filter",
    "decode_rle",
    "encode_rle",
    "mask_to_polygons",
    "nms",
    "nms_containment",
    "nms_masks",
    "normalize_boxes",
    "union_mask",
    "upsample_mask",
]


def __getattr__(name: str) -> Any:
    if name not in ("Polygon", "mask_to_polygons"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from florence2_sam2.postprocess import polygons

    return getattr(polygons, name)
