"""A mask at the picture's own size, with its polygons: what a call with other thresholds need not make again."""

from __future__ import annotations

from dataclasses import dataclass

from florence2_sam2.postprocess import CroppedMask, Polygon, mask_to_polygons


@dataclass
class Shape:
    """`mask` never changes. The polygons are those of the precision that was asked for last."""

    mask: CroppedMask
    _polygons: tuple[float, list[Polygon]] | None = None

    def polygons(self, precision: float) -> list[Polygon]:
        """As `mask_to_polygons`; they are shared and must not be changed."""
        known = self._polygons  # several calls may ask at once, with different precisions
        if known is None or known[0] != precision:
            known = self._polygons = precision, mask_to_polygons(self.mask, precision)
        return known[1]

    @property
    def nbytes(self) -> int:
        """What it holds now, roughly."""
        polygons = self._polygons[1] if self._polygons else []
        rings = [ring for part in polygons for ring in (part.exterior, *part.holes)]
        return _OVERHEAD + self.mask.bits.nbytes + sum(_OVERHEAD + ring.nbytes for ring in rings)


_OVERHEAD = 200  # of an object and its arrays, in bytes
