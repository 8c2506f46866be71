"""Keys and values of all layers and rows in one array, whose active rows go to onnxruntime without a copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def fitting(needed: int, capacity: int, granularity: int) -> int:
    """The capacity for `needed` positions: the one there is, unless it is too small, or so large that it slows every
    step down."""
    wanted = -(-needed // granularity) * granularity
    return capacity if 3 * capacity < 4 * wanted <= 4 * capacity else wanted


class KeyValueCache:
    """`array` FP32 [2 * layers, max_rows, heads, capacity, head_dim], layer by layer its keys and then its values.

    The active rows come first, so `array[i, :rows]` is contiguous. What lies beyond a row's valid length is masked by
    the graph; it must be finite all the same (0 · NaN is NaN), which is why new memory is zeroed.
    """

    def __init__(self, layers: int, max_rows: int, heads: int, head_dim: int, granularity: int) -> None:
        self._shape = (2 * layers, max_rows, heads, head_dim)
        self._granularity = granularity
        self.array = self._empty(granularity)
        self._new: NDArray[np.float32] | None = None

    @property
    def capacity(self) -> int:
        return self.array.shape[3]

    def fit(self, needed: int, lengths: NDArray[np.int64]) -> None:
        """Make room for `needed` positions per row, or give room back that slows every step down.

        `lengths` [rows]: how much of each active row is valid and therefore kept.
        """
        capacity = fitting(needed, self.capacity, self._granularity)
        if capacity == self.capacity:
            return
        grown = self._empty(capacity)
        for row, length in enumerate(lengths):
            grown[:, row, :, :length] = self.array[:, row, :, :length]
        self.array = grown

    def copy_row(self, source: int, target: int, begin: int, end: int) -> None:
        """Copy positions begin … end - 1."""
        self.array[:, target, :, begin:end] = self.array[:, source, :, begin:end]

    def put(self, row: int, values: Sequence[NDArray[np.float32]], length: int) -> None:
        """Let a row begin with `values`, FP32 [heads, length, head_dim] each."""
        for target, value in zip(self.array, values, strict=True):
            target[row, :, :length] = value

    def append(self, past: NDArray[np.int64]) -> None:
        """Write the new positions, one a row, that the graph has put where `bind_new` said, behind the `past` ones."""
        assert self._new is not None
        rows = len(past)
        self.array[:, np.arange(rows), :, past] = self._new[:, :rows, :, 0].swapaxes(0, 1)

    def bind(self, binding: Any, name: str, index: int, rows: int) -> None:
        """Let an input of the graph be the first rows of array `index`."""
        bind_input(binding, name, self.array[index, :rows])

    def bind_new(self, binding: Any, name: str, index: int, rows: int) -> None:
        """Let an output of the graph be the rows' new positions in array `index`."""
        if self._new is None:
            arrays, max_rows, heads, head_dim = self._shape
            self._new = np.zeros((arrays, max_rows, heads, 1, head_dim), np.float32)
        bind_output(binding, name, self._new[index, :rows])

    def _empty(self, capacity: int) -> NDArray[np.float32]:
        arrays, rows, heads, head_dim = self._shape
        return np.zeros((arrays, rows, heads, capacity, head_dim), np.float32)


def bind_input(binding: Any, name: str, array: NDArray) -> None:
    """Let a graph's input be an array. A graph on the CPU reads it where it lies, so it must stay there; for another
    device it is copied now."""
    binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


def bind_output(binding: Any, name: str, array: NDArray) -> None:
    """Let a graph's output be written to an array, which must stay where it is."""
    binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
