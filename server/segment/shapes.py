"""A mask at the picture's own size, with its polygons: what a call with other thresholds need not make again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from florence2_sam2.postprocess import CroppedMask, Polygon, encode_rle, mask_to_polygons
from florence2_sam2.postprocess.rle import Rle


@dataclass
class Shape:
    """`mask` never changes. The polygons are those of the precision that was asked for last."""

    mask: CroppedMask
    _polygons: tuple[float, list[Polygon]] | None = None
    _rle: Rle | None = None

    @cached_property
    def area(self) -> int:
        """Pixels of the mask."""
        return self.mask.area

    def polygons(self, precision: float) -> list[Polygon]:
        """As `mask_to_polygons`; they are shared and must not be changed."""
        known = self._polygons  # several calls may ask at once, with different precisions
        if known is None or known[0] != precision:
            known = self._polygons = precision, mask_to_polygons(self.mask, precision)
        return known[1]

    def rle(self) -> Rle:
        """As `encode_rle`; it is shared and must not be changed."""
        if self._rle is None:
            self._rle = encode_rle(self.mask)
        return self._rle

    def is_drawn(self, precision: float, rle: bool) -> bool:
        """Whether `polygons`, and `rle` where that is asked for, have been made already."""
        drawn = self._polygons is not None and self._polygons[0] == precision
        return drawn and (self._rle is not None or not rle)

    @property
    def points(self) -> int:
        """Corners of the polygons that it has now."""
        return sum(len(ring) for ring in self._rings())

    @property
    def nbytes(self) -> int:
        """What it holds now, roughly."""
        counts = len(self._rle["counts"]) if self._rle else 0
        rings = sum(_OVERHEAD + ring.nbytes for ring in self._rings())
        return _OVERHEAD + self.mask.bits.nbytes + counts + rings

    def _rings(self) -> list[NDArray[Any]]:
        polygons = self._polygons[1] if self._polygons else []
        return [ring for part in polygons for ring in (part.exterior, *part.holes)]


_OVERHEAD = 200  # of an object and its arrays, in bytes
