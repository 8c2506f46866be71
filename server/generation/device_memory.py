"""Float32 rows in a device's memory, moved and cleared there by onnxruntime itself: nothing passes through the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import _pybind_state

from florence2_sam2.server.generation import tiny_graphs
from florence2_sam2.server.onnx_session import device_of, open_graph

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Block:
    """FP32 [rows, width] at `pointer`, on the device; `value` holds the memory."""

    value: onnxruntime.OrtValue
    rows: int
    width: int

    @classmethod
    def of(cls, value: onnxruntime.OrtValue) -> Block:
        """A tensor of any shape as rows of its last axis."""
        shape = value.shape()
        return cls(value, int(np.prod(shape[:-1], dtype=np.int64)), shape[-1])

    def pointer(self, row: int = 0) -> int:
        return int(self.value.data_ptr()) + row * self.width * _FLOAT_BYTES


class DeviceMemory:
    """Memory of the device that the wanted execution provider computes on.

    Raises:
        ProviderError: it does not run.
    """

    def __init__(self) -> None:
        self._move = open_graph(tiny_graphs.move_rows())
        self._zeros = open_graph(tiny_graphs.zeros())
        self.device = device_of(self._move)

    def clear(self, rows: int, width: int) -> Block:
        """New memory, all zeros."""
        binding = self._zeros.io_binding()
        binding.bind_cpu_input("shape", np.array([rows, width], np.int64))
        binding.bind_output("zeros", self.device)
        run(self._zeros, binding)
        (value,) = binding.get_outputs()
        return Block(value, rows, width)

    def move(
        self, source: Block, at: NDArray[np.int64], target: Block, to: NDArray[np.int64], first: int = 0
    ) -> None:
        """target[to] = source[at], all at once. Rows `to` differ from each other; `at` and `to` are [M].

        `source` may be `target`. `first` is added to `to`.
        """
        binding = self._move.io_binding()
        self.bind_input(binding, "source", source, 0, (source.rows, source.width))
        self.bind_input(binding, "target", target, 0, (target.rows, target.width))
        self.bind_output(binding, "moved", target, 0, (target.rows, target.width))
        binding.bind_cpu_input("from", np.ascontiguousarray(at))
        binding.bind_cpu_input("to", np.ascontiguousarray(to + first)[:, None])
        run(self._move, binding)

    def bind_input(self, binding: Any, name: str, block: Block, row: int, shape: tuple[int, ...]) -> None:
        """Let a graph's input be what begins at a row of `block`."""
        binding.bind_input(name, self.device, 0, np.float32, shape, block.pointer(row))

    def bind_output(self, binding: Any, name: str, block: Block, row: int, shape: tuple[int, ...]) -> None:
        """Let a graph's output be written to where a row of `block` begins."""
        binding.bind_output(name, self.device, 0, np.float32, shape, block.pointer(row))


class Exchanged(Protocol):
    """A tensor of another library, as the array API has it."""

    def __dlpack__(self) -> Any: ...


def borrowed(tensor: Exchanged) -> onnxruntime.OrtValue:
    """The same memory for onnxruntime, which keeps `tensor` for as long as it lives."""
    # onnxruntime's public way, `OrtValue.from_dlpack`, is younger than the oldest version that we take.
    return onnxruntime.OrtValue(_pybind_state.OrtValue.from_dlpack(tensor.__dlpack__(), False))


def run(session: onnxruntime.InferenceSession, binding: Any) -> None:
    """Returns when the device is done: the next graph has a stream of its own."""
    binding.synchronize_inputs()
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()
