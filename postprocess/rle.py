"""COCO's run-length encoding of masks, byte for byte as pycocotools writes it.

A mask is read column by column; `counts` are the lengths of its runs, the first of False pixels (0 if the mask starts
with True). The counts string is COCO's compressed form: each count from the fourth on is stored as its difference
from the one two before, each number in groups of 5 bits from the lowest, as character 48 + group, + 32 if more follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from florence2_sam2.postprocess.masks import CroppedMask

GROUPS = 7  # of 5 bits: enough for the difference of two 32-bit counts


class Rle(TypedDict):
    """COCO's form: size is [height, width]."""

    size: list[int]
    counts: str


def encode_rle(mask: CroppedMask) -> Rle:
    """Encode a mask; only its crop is read."""
    return {"size": [mask.height, mask.width], "counts": _compress(_run_lengths(mask))}


def decode_rle(rle: Rle | Mapping[str, object]) -> NDArray[np.bool_]:
    """The mask of an encoding: bool [height, width].

    Raises:
        ValueError: `size` or `counts` is missing or of another form, or the runs do not fill the size.
    """
    size, text = rle.get("size"), rle.get("counts")
    if not (
        isinstance(size, (list, tuple))
        and len(size) == 2
        and all(isinstance(n, int) and n >= 0 for n in size)
    ):
        raise ValueError(f"size: {size!r}, expected [height, width]")
    if not isinstance(text, str):
        raise ValueError(f"counts: {type(text).__name__}, expected COCO's compressed string")
    height, width = size
    counts = _decompress(text)
    if counts.min(initial=0) < 0 or counts.sum() != height * width:
        raise ValueError(f"counts: the runs do not fill {height} × {width} pixels")
    values = np.arange(len(counts)) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, counts).reshape(width, height).T)


def _run_lengths(mask: CroppedMask) -> NDArray[np.int64]:
    h, w = mask.bits.shape
    columns = np.zeros((w, h + 2), dtype=np.bool_)  # each column of the crop between two False pixels
    columns[:, 1:-1] = mask.bits.T
    column, row = np.divmod(np.flatnonzero(columns[:, 1:] != columns[:, :-1]), h + 1)
    edges = (mask.x + column) * mask.height + mask.y + row  # start, stop, start, stop …
    # A run that reaches the bottom of the picture goes on at the top of the next column.
    joined = np.flatnonzero(edges[2::2] == edges[1:-1:2])
    edges = np.delete(edges, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    total = mask.height * mask.width
    if not len(edges) or edges[-1] < total:
        edges = np.append(edges, total)
    return np.diff(edges, prepend=0).astype(np.int64)


def _compress(counts: NDArray[np.int64]) -> str:
    rest = counts.copy()
    rest[3:] -= counts[1:-2]
    characters = np.zeros((len(rest), GROUPS), dtype=np.uint8)
    used = np.zeros((len(rest), GROUPS), dtype=np.bool_)
    more = np.ones(len(rest), dtype=np.bool_)
    for group in range(GROUPS):
        if not more.any():
            break
        used[:, group] = more
        bits = rest & 31
        rest >>= 5
        # The sign is bit 4 of the last group.
        more = more & (rest != np.where(bits & 16, -1, 0))
        characters[:, group] = 48 + bits + np.where(more, 32, 0)
    return characters[used].tobytes().decode("ascii")


def _decompress(text: str) -> NDArray[np.int64]:
    groups = np.frombuffer(text.encode("latin-1", "replace"), dtype=np.uint8).astype(np.int64) - 48
    if groups.min(initial=0) < 0 or groups.max(initial=0) > 63 or (len(groups) and groups[-1] & 32):
        raise ValueError("counts: not a compressed run-length string")
    last = np.flatnonzero(groups & 32 == 0)
    first = np.append(0, last[:-1] + 1)[: len(last)]
    digits = last - first + 1
    if digits.max(initial=0) > GROUPS:
        raise ValueError("counts: not a compressed run-length string")
    shift = 5 * (np.arange(len(groups)) - np.repeat(first, digits))
    counts = np.add.reduceat((groups & 31) << shift, first) if len(first) else np.zeros(0, dtype=np.int64)
    counts -= np.where(groups[last] & 16, 1 << (5 * digits), 0)
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts
