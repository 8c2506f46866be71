"""The two graphs of `florence2` and the caches that go with them: encode a prompt, then one token per row and step."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from florence2_sam2.server import manifest
from florence2_sam2.server.generation.cache import KeyValueCache
from florence2_sam2.server.onnx_session import (
    PROVIDERS_VARIABLE,
    TENSORRT,
    ProviderError,
    open_session,
    wanted_providers,
)

TEXT_ENCODER = "text_encoder.onnx"
DECODER = "decoder.onnx"

# Every step pays for the whole capacity of its rows, every growth for a copy of them.
_SELF_GRANULARITY = 64
_CROSS_GRANULARITY = 32


@dataclass(frozen=True)
class Encoded:
    """Cross-attention keys and values of one prompt: per layer key and value, each FP32 [heads, length, head_dim]."""

    arrays: list[NDArray[np.float32]]
    length: int


class Decoder:
    """Up to `max_rows` sequences that advance together. Rows are numbered 0 … rows - 1 without gaps.

    Nothing here is thread-safe: one thread owns a decoder.

    Raises:
        ProviderError: the wanted execution provider does not run, or cannot compute with the decoder's weights.
    """

    def __init__(self, folder: Path, florence2: manifest.Florence2, max_rows: int) -> None:
        shape = florence2.decoder
        if florence2.decoder_weights == "int8" and TENSORRT in wanted_providers():
            raise ProviderError(
                f"TensorRT cannot compute with the decoder's 8-bit weights: leave {TENSORRT} out of "
                f"{PROVIDERS_VARIABLE}, or export without --decoder-weights int8"
            )
        self._text_encoder = open_session(folder / TEXT_ENCODER)
        self._session = open_session(folder / DECODER, plan_memory=True)
        self.max_rows = max_rows
        self.rows = 0
        self._layers = shape.layers
        self._self = KeyValueCache(shape.layers, max_rows, shape.heads, shape.head_dim, _SELF_GRANULARITY)
        self._cross = KeyValueCache(shape.layers, max_rows, shape.heads, shape.head_dim, _CROSS_GRANULARITY)
        self._input_ids = np.zeros((max_rows, 1), np.int64)
        self._past_lengths = np.zeros(max_rows, np.int64)
        self._encoder_lengths = np.zeros(max_rows, np.int64)
        # Which step and row wrote a position: rows agree where they hold the same number.
        self._written = np.zeros((max_rows, shape.decoder_positions), np.int64)
        self._writes = 0
        self._logits = np.zeros((max_rows, florence2.tokens.vocabulary), np.float32)
        self._new = np.zeros((2 * shape.layers, max_rows, shape.heads, 1, shape.head_dim), np.float32)
        self._binding: onnxruntime.IOBinding | None = None

    def encode(self, image_features: NDArray[np.float32], prompt_ids: NDArray[np.int64]) -> Encoded:
        """Run the text encoder for one prompt. Features [T, D]; ids [P] with `<s>` and `</s>`."""
        arrays = self._text_encoder.run(
            [f"cross_{kind}_{layer}" for layer in range(self._layers) for kind in ("key", "value")],
            {
                "image_features": image_features[None],
                "input_ids": prompt_ids[None],
                "prompt_lengths": np.array([len(prompt_ids)], np.int64),
            },
        )
        return Encoded([array[0] for array in arrays], len(image_features) + len(prompt_ids))

    def add(self, encoded: Encoded) -> int:
        """Begin a sequence; returns its row."""
        row = self._append(encoded.length)
        for target, array in zip(self._cross.array, encoded.arrays, strict=True):
            target[row, :, : encoded.length] = array
        return row

    def fork(self, source: int) -> int:
        """Begin a sequence that equals row `source` so far; returns its row."""
        length = int(self._encoder_lengths[source])
        row = self._append(length)
        self._cross.copy_row(source, row, 0, length)
        self.copy_past(source, row)
        return row

    def copy_past(self, source: int, target: int) -> None:
        """Make row `target` continue what row `source` has said so far. Both must be of the same prompt.

        Beams of one request mostly part only in their last tokens: what they have in common is not copied.
        """
        length, known = int(self._past_lengths[source]), int(self._past_lengths[target])
        common = min(length, known)
        apart = np.flatnonzero(self._written[source, :common] != self._written[target, :common])
        begin = int(apart[0]) if apart.size else common
        self._self.copy_row(source, target, begin, length)
        self._written[target, begin:length] = self._written[source, begin:length]
        self._past_lengths[target] = length

    def remove(self, rows: Collection[int]) -> dict[int, int]:
        """End sequences. Rows from the end move into the gaps: returns the new number of each row that moved."""
        remaining = self.rows - len(rows)
        gaps = [row for row in rows if row < remaining]
        movers = [row for row in range(remaining, self.rows) if row not in rows]
        moved = dict(zip(movers, gaps, strict=True))
        for source, target in moved.items():
            self._encoder_lengths[target] = self._encoder_lengths[source]
            self._cross.copy_row(source, target, 0, int(self._encoder_lengths[source]))
            self.copy_past(source, target)
        self._set_rows(remaining)
        if remaining:
            self._fit(kept=remaining)
        return moved

    def step(self, tokens: list[int]) -> NDArray[np.float32]:
        """Feed one token to every row.

        Returns logits FP32 [rows, vocabulary] in a buffer that the next step overwrites; the caller may change it.
        """
        rows = self.rows
        if self._past_lengths[:rows].max() >= self._self.capacity:
            self._fit(kept=rows)
        self._input_ids[:rows, 0] = tokens
        if self._binding is None:
            self._binding = self._bind()
        self._session.run_with_iobinding(self._binding)
        index, past = np.arange(rows), self._past_lengths[:rows]
        self._self.array[:, index, :, past] = self._new[:, :rows, :, 0].swapaxes(0, 1)
        self._written[index, past] = self._writes + index
        self._writes += rows
        past += 1
        return self._logits[:rows]

    def _append(self, encoder_length: int) -> int:
        row = self.rows
        if row == self.max_rows:
            raise RuntimeError(f"all {self.max_rows} rows of the decoder are taken")
        self._encoder_lengths[row] = encoder_length
        self._past_lengths[row] = 0
        self._set_rows(row + 1)
        self._fit(kept=row)
        return row

    def _set_rows(self, rows: int) -> None:
        self.rows = rows
        self._binding = None

    def _fit(self, kept: int) -> None:
        """Give every row room for what it has and one token more; the first `kept` rows keep what they have."""
        past, encoder = self._past_lengths[: self.rows], self._encoder_lengths[: self.rows]
        self._self.fit(int(past.max()) + 1, past[:kept])
        self._cross.fit(int(encoder.max()), encoder[:kept])
        self._binding = None

    def _bind(self) -> onnxruntime.IOBinding:
        """Tell onnxruntime where the active rows lie: until rows or capacities change, a step passes no arrays."""
        binding = self._session.io_binding()
        rows = self.rows
        _bind_input(binding, "input_ids", self._input_ids[:rows])
        _bind_input(binding, "past_lengths", self._past_lengths[:rows])
        _bind_input(binding, "encoder_lengths", self._encoder_lengths[:rows])
        _bind_output(binding, "logits", self._logits[:rows])
        for layer in range(self._layers):
            for kind, index in (("key", 2 * layer), ("value", 2 * layer + 1)):
                _bind_input(binding, f"self_{kind}_{layer}", self._self.array[index, :rows])
                _bind_input(binding, f"cross_{kind}_{layer}", self._cross.array[index, :rows])
                _bind_output(binding, f"new_{kind}_{layer}", self._new[index, :rows])
        return binding


def _bind_input(binding: onnxruntime.IOBinding, name: str, array: NDArray) -> None:
    binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


def _bind_output(binding: onnxruntime.IOBinding, name: str, array: NDArray) -> None:
    binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
