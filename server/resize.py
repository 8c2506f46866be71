"""The bilinear antialiased resize of uint8 pictures that SAM2's processor makes, bit for bit, without torch.

Sam2ImageProcessor resizes with torchvision, that is with PyTorch's kernel for bytes (ATen, UpSampleKernel.cpp,
`compute_index_ranges_int16_weights`): two passes, along x and then along y, each rounded to bytes, with weights in
16-bit fixed point. Pillow's kernel is the same with 22 fraction bits; that moves up to a fifth of the pixels by one or
two levels, and the edges of small masks with them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Outputs of one matrix product: enough to be fast, few enough that its weights are mostly not zero.
_BLOCK = 16
# Pixels that are taken apart into three planes of numbers together: few enough to be still in the cache when the
# products read them. A picture of 12 megapixels takes 0.4 of the time that it takes as a whole.
_PIXELS = 2**20


class _Band(NamedTuple):
    """A block of outputs along one axis: where they are, the inputs they need, the weights [inputs, outputs], and
    whether these, of millions of pixels, could make more than white of white."""

    outputs: slice
    inputs: slice
    weights: NDArray[Any]
    overflows: bool


def resize_bilinear(rgb: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """A picture uint8 [H, W, 3] as uint8 [3, height, width]; the aspect is ignored."""
    planes = _widened(rgb, width)
    if height != planes.shape[1]:
        tall = np.empty((3, height, width), np.uint8)
        for band in _bands(planes.shape[1], height):
            sums = band.weights.T @ planes[:, band.inputs].astype(band.weights.dtype)
            tall[:, band.outputs] = _rounded(sums, band.overflows)
        planes = tall
    return planes


def _widened(rgb: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """The pass along x: uint8 [H, W, 3] as uint8 [3, H, width]."""
    before_height, before_width = rgb.shape[:2]
    if width == before_width:
        return np.ascontiguousarray(rgb.transpose(2, 0, 1))
    bands = _bands(before_width, width)
    wide = np.empty((3, before_height, width), np.uint8)
    rows = max(1, _PIXELS // before_width)
    for start in range(0, before_height, rows):
        part = rgb[start : start + rows]
        planes = np.empty((3, *part.shape[:2]), bands[0].weights.dtype)
        for channel, plane in enumerate(planes):
            plane[:] = part[:, :, channel]
        for band in bands:
            sums = planes[:, :, band.inputs] @ band.weights
            wide[:, start : start + rows, band.outputs] = _rounded(sums, band.overflows)
    return wide


@lru_cache(maxsize=16)
def _bands(before: int, after: int) -> list[_Band]:
    """The weights that take `before` pixels to `after`: whole numbers of a power of two."""
    scale = before / after
    reach = max(scale, 1.0)  # of the triangle filter: it grows when a picture shrinks
    centre = scale * (np.arange(after) + 0.5)
    first = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    stop = np.minimum((centre + reach + 0.5).astype(np.int64), before)
    taps = first[:, None] + np.arange(int((stop - first).max()))
    weights = np.maximum(1 - np.abs((taps - centre[:, None] + 0.5) / reach), 0) * (taps < stop[:, None])
    weights /= weights.sum(axis=1, keepdims=True)
    # As many bits as keep the largest weight within 16 with its sign.
    bits = next(bits for bits in range(22, -1, -1) if int(0.5 + weights.max() * 2**bits) < 2**15 or bits == 0)
    fixed: NDArray[np.float64] = np.floor(weights * 2**bits + 0.5)
    # The sums stay whole numbers, and so exact: below 2^24 in float32, below 2^53 in float64.
    dtype = np.float32 if 255 * fixed.sum(axis=1).max() < 2**24 else np.float64
    overflows = bool(255 * fixed.sum(axis=1).max() * 2.0**-bits + 0.5 >= 256)
    bands = []
    for start in range(0, after, _BLOCK):
        end = min(start + _BLOCK, after)
        low, high = int(first[start]), int(stop[end - 1])
        band: NDArray[Any] = np.zeros((high - low, end - start), dtype)
        for column, output in enumerate(range(start, end)):
            count = int(stop[output] - first[output])
            band[first[output] - low : first[output] - low + count, column] = fixed[output, :count]
        band *= 2.0**-bits
        bands.append(_Band(slice(start, end), slice(low, high), band, overflows))
    return bands


def _rounded(sums: NDArray[np.floating[Any]], overflows: bool) -> NDArray[np.uint8]:
    """To bytes, half up; `sums`, which are exact, are overwritten."""
    sums += 0.5
    if overflows:
        np.minimum(sums, 255, out=sums)
    return sums.astype(np.uint8)
