"""Keys and values of all layers and rows in one array, whose active rows go to onnxruntime without a copy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class KeyValueCache:
    """`array` FP32 [2 * layers, max_rows, heads, capacity, head_dim], layer by layer its keys and then its values.

    The active rows come first, so `array[i, :rows]` is contiguous. What lies beyond a row's valid length is masked by
    the graph; it must be finite all the same (0 · NaN is NaN), which is why new memory is zeroed.
    """

    def __init__(self, layers: int, max_rows: int, heads: int, head_dim: int, granularity: int) -> None:
        self._shape = (2 * layers, max_rows, heads, head_dim)
        self._granularity = granularity
        self.array = self._empty(granularity)

    @property
    def capacity(self) -> int:
        return self.array.shape[3]

    def fit(self, needed: int, lengths: NDArray[np.int64]) -> None:
        """Make room for `needed` positions per row, or give room back that slows every step down.

        `lengths` [rows]: how much of each active row is valid and therefore kept.
        """
        capacity = -(-needed // self._granularity) * self._granularity
        if 3 * self.capacity < 4 * capacity <= 4 * self.capacity:
            return
        grown = self._empty(capacity)
        for row, length in enumerate(lengths):
            grown[:, row, :, :length] = self.array[:, row, :, :length]
        self.array = grown

    def copy_row(self, source: int, target: int, begin: int, end: int) -> None:
        """Copy positions begin … end - 1."""
        self.array[:, target, :, begin:end] = self.array[:, source, :, begin:end]

    def _empty(self, capacity: int) -> NDArray[np.float32]:
        arrays, rows, heads, head_dim = self._shape
        return np.zeros((arrays, rows, heads, capacity, head_dim), np.float32)
