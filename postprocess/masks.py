"""Masks, stored as the crop of the picture in which they are True, and their upsampling from SAM2's logits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SMALLEST = (
    1e-30  # a logit above it stays positive when multiplied by the larger of two weights that add up to 1
)


@dataclass(frozen=True, eq=False)
class CroppedMask:
    """A mask of a width × height picture that is False outside the crop `bits`, whose top left pixel is (x, y).

    Raises:
        ValueError: `bits` is not bool [h, w], or the crop does not lie in the picture.
    """

    bits: NDArray[np.bool_]
    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.bits.ndim != 2 or self.bits.dtype != np.bool_:
            raise ValueError(f"bits: {self.bits.dtype} {list(self.bits.shape)}, expected bool [h, w]")
        h, w = self.bits.shape
        if not (0 <= self.x <= self.width - w and 0 <= self.y <= self.height - h):
            raise ValueError(
                f"crop {w}×{h} at ({self.x}, {self.y}) is not in a {self.width}×{self.height} picture"
            )

    @classmethod
    def from_full(cls, mask: NDArray[np.bool_]) -> CroppedMask:
        """Crop a mask of the whole picture, bool [height, width], to its True pixels."""
        height, width = mask.shape
        trimmed = _trim(mask, 0, 0, width, height)
        return replace(trimmed, bits=trimmed.bits.copy())

    @property
    def area(self) -> int:
        """Number of True pixels."""
        return int(np.count_nonzero(self.bits))

    def full(self) -> NDArray[np.bool_]:
        """The mask of the whole picture: bool [height, width]."""
        mask = np.zeros((self.height, self.width), dtype=np.bool_)
        h, w = self.bits.shape
        mask[self.y : self.y + h, self.x : self.x + w] = self.bits
        return mask

    def box(self) -> tuple[int, int, int, int]:
        """The tightest box (x1, y1, x2, y2) around the True pixels, along pixel edges; all 0 when there are none."""
        rows, columns = _true_span(self.bits.any(axis=1)), _true_span(self.bits.any(axis=0))
        if rows.start == rows.stop:
            return 0, 0, 0, 0
        return self.x + columns.start, self.y + rows.start, self.x + columns.stop, self.y + rows.stop


def union_mask(masks: Iterable[CroppedMask], width: int, height: int) -> NDArray[np.bool_]:
    """True where any of the masks is: bool [height, width], all False without masks.

    Raises:
        ValueError: a mask belongs to a picture of another size.
    """
    union = np.zeros((height, width), dtype=np.bool_)
    for mask in masks:
        if (mask.width, mask.height) != (width, height):
            raise ValueError(f"a mask of a {mask.width}×{mask.height} picture in a {width}×{height} one")
        h, w = mask.bits.shape
        union[mask.y : mask.y + h, mask.x : mask.x + w] |= mask.bits
    return union


def upsample_mask(logits: NDArray[np.float32], width: int, height: int) -> CroppedMask:
    """SAM2's mask of one box at the size of the picture.

    The same mask as torch's `F.interpolate(logits, (height, width), mode="bilinear", align_corners=False) > 0`, but
    for pixels whose interpolated logit is zero within rounding. An interpolated value is a weighted mean of four
    logits: positive if all are, and only if one is. So only the part of the picture that positive logits reach is
    looked at, and values are computed only where the logits' signs differ.

    Args:
        logits: FP32 [rows, columns], usually square.
        width, height: size of the picture in pixels; smaller than the logits is fine.

    Returns:
        The mask, cropped to its True pixels.
    """
    positive = logits > 0
    rows, columns = _axis(logits.shape[0], height), _axis(logits.shape[1], width)
    reached, crop = rows.reach(positive.any(axis=1)), columns.reach(positive.any(axis=0))
    if reached.start == reached.stop or crop.start == crop.stop:
        return _trim(np.zeros((0, 0), dtype=np.bool_), 0, 0, width, height)
    source = logits[rows.low[reached.start] : rows.high[reached.stop - 1] + 1]
    low = rows.low[reached] - rows.low[reached.start]
    # Rows of pixels between the same two rows of logits are done together.
    first = np.flatnonzero(np.diff(low, prepend=-1))
    stop = np.append(first[1:], len(low))
    with np.errstate(invalid="ignore"):  # infinite logits times a weight of 0
        wide = (
            source.take(columns.low[crop], axis=1) * columns.low_weight[crop]
            + source.take(columns.high[crop], axis=1) * columns.high_weight[crop]
        )
        upper, lower = wide[low[first]], wide[rows.high[reached][first] - rows.low[reached.start]]
        least, most = np.minimum(upper, lower), np.maximum(upper, lower)
        all_positive = (least > SMALLEST) & (most < np.inf)
        mixed = ~all_positive & ~(most <= 0)
        bits = all_positive.repeat(stop - first, axis=0)
        low_weight, high_weight = rows.low_weight[reached, None], rows.high_weight[reached, None]
        above, below = upper[mixed], lower[mixed]
        columns_mixed = mixed.nonzero()[1]
        ends = np.cumsum(np.count_nonzero(mixed, axis=1)).tolist()
        begin = 0
        for row, row_stop, end in zip(first.tolist(), stop.tolist(), ends, strict=True):
            low_part = above[begin:end] * low_weight[row:row_stop]
            bits[row:row_stop, columns_mixed[begin:end]] = (
                low_part + below[begin:end] * high_weight[row:row_stop] > 0
            )
            begin = end
    return _trim(bits, crop.start, reached.start, width, height)


@dataclass(frozen=True, eq=False)
class _Axis:
    """Along one axis, the logits each pixel lies between (indices, int64 [pixels]) and their weights (FP32)."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    low_weight: NDArray[np.float32]
    high_weight: NDArray[np.float32]

    def reach(self, positive: NDArray[np.bool_]) -> slice:
        """The pixels that lie between logits of which one may be positive, as one range; empty if there are none."""
        span = _true_span(positive)
        first = int(np.searchsorted(self.high, span.start))
        return slice(first, max(first, int(np.searchsorted(self.low, span.stop))))


@lru_cache(maxsize=8)  # the objects of a picture share both axes
def _axis(size: int, pixels: int) -> _Axis:
    """torch's area_pixel_compute_source_index for align_corners=False.

    Pixel p lies at (p + 0.5) · size / pixels - 0.5, not below 0. torch's vector code fuses the multiplication and the
    subtraction; float64 gives the same rounding.
    """
    scale = np.float64(np.float32(size) / np.float32(pixels))
    position = np.maximum(scale * (np.arange(pixels) + 0.5) - 0.5, 0).astype(np.float32)
    low = np.minimum(position.astype(np.int64), size - 1)
    high_weight = np.clip(position - low.astype(np.float32), np.float32(0), np.float32(1))
    return _Axis(low, np.minimum(low + 1, size - 1), np.float32(1) - high_weight, high_weight)


def _true_span(flags: NDArray[np.bool_]) -> slice:
    """From the first to the last True; slice(0, 0) if there is none."""
    indices = np.flatnonzero(flags)
    return slice(int(indices[0]), int(indices[-1]) + 1) if len(indices) else slice(0, 0)


def _trim(bits: NDArray[np.bool_], x: int, y: int, width: int, height: int) -> CroppedMask:
    rows = _true_span(bits.any(axis=1))
    columns = _true_span(bits[rows].any(axis=0))
    if rows.start == rows.stop:
        return CroppedMask(np.zeros((0, 0), dtype=np.bool_), 0, 0, width, height)
    return CroppedMask(bits[rows, columns], x + columns.start, y + rows.start, width, height)
