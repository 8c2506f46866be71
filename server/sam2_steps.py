"""What the `sam2` ensemble does before and after its two networks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from florence2_sam2.postprocess.masks import upsample_mask
from florence2_sam2.server.errors import InvalidRequest

# Most bytes of full-size masks in one answer, a byte a pixel: 1 GiB. More would fill the shared memory.
MAX_MASK_BYTES = 2**30


def check_boxes(boxes: NDArray[np.float32], limit: int) -> None:
    """Refuse what the mask decoder cannot take.

    Args:
        boxes: [N, 4] x1, y1, x2, y2 in pixels of the upright picture.
        limit: most boxes in one request.

    Raises:
        InvalidRequest: no box, too many, or a coordinate that is no finite number.
    """
    if len(boxes) == 0:
        raise InvalidRequest("boxes", "there is none, at least one is needed")
    if len(boxes) > limit:
        raise InvalidRequest("boxes", f"there are {len(boxes)}, at most {limit} are allowed")
    wrong = np.flatnonzero(~np.isfinite(boxes).all(axis=1))
    if wrong.size:
        raise InvalidRequest("boxes", f"box {wrong[0]} has a coordinate that is no finite number")


def full_size_masks(logits: NDArray[np.float32], width: int, height: int) -> NDArray[np.bool_]:
    """Masks of the picture's size.

    Args:
        logits: [N, S/4, S/4].
        width, height: of the picture, in pixels.

    Returns:
        BOOL [N, height, width]: where the logits, upsampled bilinearly, are above 0.

    Raises:
        InvalidRequest: the size is not positive, or the masks together are larger than MAX_MASK_BYTES.
    """
    if width < 1 or height < 1:
        raise InvalidRequest("image_size", f"{width}×{height} is no picture's size")
    if len(logits) * width * height > MAX_MASK_BYTES:
        most = MAX_MASK_BYTES // (width * height)
        raise InvalidRequest(
            "boxes",
            f"{len(logits)} masks of {width}×{height} are too large for one answer, at most {most} fit",
        )
    masks = np.zeros((len(logits), height, width), np.bool_)
    for mask, logit in zip(masks, logits, strict=True):
        cropped = upsample_mask(logit, width, height)
        h, w = cropped.bits.shape
        mask[cropped.y : cropped.y + h, cropped.x : cropped.x + w] = cropped.bits
    return masks
