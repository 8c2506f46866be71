"""Keys and values of all layers and rows in a device's memory: the decoder's graph reads and writes them there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from florence2_sam2.server.generation.cache import fitting
from florence2_sam2.server.generation.device_memory import Block, DeviceMemory


class DeviceCache:
    """`KeyValueCache` on a device: the same layout, [2 * layers, max_rows, heads, capacity, head_dim], as rows of
    head_dim numbers.

    All of it is allocated, and while it grows the old one is there too.
    """

    def __init__(
        self, memory: DeviceMemory, layers: int, max_rows: int, heads: int, head_dim: int, granularity: int
    ) -> None:
        self._memory = memory
        self._arrays, self._max_rows, self._heads, self._head_dim = 2 * layers, max_rows, heads, head_dim
        self._granularity = granularity
        self.capacity = granularity
        self._block = self._empty(granularity)
        self._new: Block | None = None

    def fit(self, needed: int, lengths: NDArray[np.int64]) -> None:
        """As `KeyValueCache.fit`."""
        capacity = fitting(needed, self.capacity, self._granularity)
        if capacity == self.capacity:
            return
        grown = self._empty(capacity)
        kept = [(row, int(length)) for row, length in enumerate(lengths) if length]
        if kept:
            at = np.concatenate([self._places(row, 0, length, self.capacity) for row, length in kept])
            to = np.concatenate([self._places(row, 0, length, capacity) for row, length in kept])
            self._memory.move(self._block, at, grown, to)
        self._block, self.capacity = grown, capacity

    def copy_row(self, source: int, target: int, begin: int, end: int) -> None:
        """Copy positions begin … end - 1."""
        if begin < end and source != target:
            at, to = (self._places(row, begin, end, self.capacity) for row in (source, target))
            self._memory.move(self._block, at, self._block, to)

    def put(self, row: int, values: Sequence[onnxruntime.OrtValue], length: int) -> None:
        """Let a row begin with `values`, FP32 [1, heads, length, head_dim] each, on the device."""
        at = np.arange(self._heads * length)
        to = self._places(row, 0, length, self.capacity).reshape(self._arrays, -1)
        for places, value in zip(to, values, strict=True):
            self._memory.move(Block.of(value), at, self._block, places)

    def append(self, past: NDArray[np.int64]) -> None:
        """Write the new positions, one a row, that the graph has put where `bind_new` said, behind the `past` ones."""
        assert self._new is not None
        rows = len(past)
        starts = self._starts()[:, :rows]  # [arrays, rows, heads]
        to = (starts * self.capacity + past[:, None]).ravel()
        self._memory.move(self._new, np.arange(len(to)), self._block, to)

    def bind(self, binding: Any, name: str, index: int, rows: int) -> None:
        """Let an input of the graph be the first rows of array `index`."""
        first = index * self._max_rows * self._heads * self.capacity
        shape = (rows, self._heads, self.capacity, self._head_dim)
        self._memory.bind_input(binding, name, self._block, first, shape)

    def bind_new(self, binding: Any, name: str, index: int, rows: int) -> None:
        """Let an output of the graph be the rows' new positions in array `index`."""
        if self._new is None:
            self._new = self._memory.clear(self._arrays * self._max_rows * self._heads, self._head_dim)
        shape = (rows, self._heads, 1, self._head_dim)
        self._memory.bind_output(binding, name, self._new, index * rows * self._heads, shape)

    def _empty(self, capacity: int) -> Block:
        # Zeros, since what is masked must be finite.
        rows = self._arrays * self._max_rows * self._heads * capacity
        return self._memory.clear(rows, self._head_dim)

    def _starts(self) -> NDArray[np.int64]:
        """Which run of positions each array, row and head is: [arrays, max_rows, heads]."""
        shape = (self._arrays, self._max_rows, self._heads)
        return np.arange(np.prod(shape)).reshape(shape)

    def _places(self, row: int, begin: int, end: int, capacity: int) -> NDArray[np.int64]:
        """Where a row's positions lie, array by array and head by head."""
        starts = self._starts()[:, row, :, None] * capacity
        return (starts + np.arange(begin, end)).ravel()
