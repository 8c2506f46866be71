"""The two graphs of `florence2` and the caches that go with them: encode a prompt, then one token per row and step.

Rows of one prompt, the beams of a request, share its cross-attention keys and values."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from florence2_sam2.server import manifest
from florence2_sam2.server.generation.cache import KeyValueCache, bind_input, bind_output
from florence2_sam2.server.generation.device_cache import DeviceCache
from florence2_sam2.server.generation.device_memory import DeviceMemory, run
from florence2_sam2.server.generation.embedding import embeddings
from florence2_sam2.server.onnx_session import (
    CPU,
    PROVIDERS_VARIABLE,
    TENSORRT,
    ProviderError,
    open_session,
    session_alone,
    wanted_providers,
)

TEXT_ENCODER = "text_encoder.onnx"
DECODER = "decoder.onnx"

# Every step pays for the whole capacity of its rows, every growth for a copy of them.
_SELF_GRANULARITY = 64
_CROSS_GRANULARITY = 32


# What the vision encoder made of one picture: FP32 [T, D], or FP32 [1, T, D] in a device's memory.
ImageFeatures: TypeAlias = "NDArray[np.float32] | onnxruntime.OrtValue"


@dataclass(frozen=True)
class Encoded:
    """Cross-attention keys and values of one prompt: per layer key and value, each FP32 [heads, length, head_dim] as an
    array, or FP32 [1, heads, length, head_dim] on the decoder's device (onnxruntime.OrtValue)."""

    arrays: list[Any]
    length: int


class Decoder:
    """Up to `max_rows` sequences that advance together. Rows are numbered 0 … rows - 1 without gaps.

    Nothing here is thread-safe: one thread owns a decoder.

    Args:
        on_device: whether keys and values are kept in the memory of the execution provider's device and written there
            by it. By default they are on a GPU, where others would be copied at every step, and are arrays on a CPU.

    Raises:
        ProviderError: the wanted execution provider does not run, or cannot compute with the decoder's weights.
    """

    def __init__(
        self, folder: Path, florence2: manifest.Florence2, max_rows: int, on_device: bool | None = None
    ) -> None:
        shape = florence2.decoder
        if florence2.decoder_weights == "int8" and TENSORRT in wanted_providers():
            raise ProviderError(
                f"TensorRT cannot compute with the decoder's 8-bit weights: leave {TENSORRT} out of "
                f"{PROVIDERS_VARIABLE}, or export without --decoder-weights int8"
            )
        self._text_encoder = open_session(folder / TEXT_ENCODER)
        self._text_encoder_alone = session_alone(folder / TEXT_ENCODER, self._text_encoder, _tries(florence2))
        self._session = open_session(folder / DECODER, plan_memory=True)
        self._prompt_embedding, self._embedding = embeddings(folder)
        self.max_rows = max_rows
        self.rows = 0
        self._layers = shape.layers
        self._image_tokens = florence2.image_tokens
        if on_device is None:
            on_device = self._session.get_providers()[0] != CPU
        self._memory = DeviceMemory() if on_device else None
        sizes = (shape.layers, max_rows, shape.heads, shape.head_dim)
        self._self = self._cache(*sizes, _SELF_GRANULARITY)
        self._cross = self._cache(*sizes, _CROSS_GRANULARITY)
        self._inputs_embeds = np.zeros((max_rows, 1, self._embedding.width), np.float32)
        self._past_lengths = np.zeros(max_rows, np.int64)
        # Prompts in use are numbered 0 … prompts - 1 without gaps, too.
        self._prompts = 0
        self._prompt_of = np.zeros(max_rows, np.int64)
        self._encoder_lengths = np.zeros(max_rows, np.int64)  # of each prompt
        # Which step and row wrote a position: rows agree where they hold the same number.
        self._written = np.zeros((max_rows, shape.decoder_positions), np.int64)
        self._writes = 0
        self._beside = self._places = np.zeros(0, np.int64)  # the graph's `rows` and `places`
        self._logits = np.zeros((max_rows, florence2.tokens.vocabulary), np.float32)
        self._binding: onnxruntime.IOBinding | None = None

    @property
    def device(self) -> str:
        """Where it computes, in onnxruntime's words: "cpu" or "cuda"."""
        return "cpu" if self._memory is None else self._memory.device

    def encode(
        self, image_features: ImageFeatures, prompt_ids: NDArray[np.int64], alone: bool = False
    ) -> Encoded:
        """Run the text encoder for one prompt. Features [T, D], or [1, T, D] in the device's memory; ids [P] with `<s>`
        and `</s>`. `alone`: nothing else is under way, so that it may take the whole machine."""
        on_device = image_features if isinstance(image_features, onnxruntime.OrtValue) else None
        if on_device is not None and self._memory is None:
            image_features, on_device = on_device.numpy()[0], None
        outputs = [f"cross_{kind}_{layer}" for layer in range(self._layers) for kind in ("key", "value")]
        feeds = {
            "inputs_embeds": self._prompt_embedding(prompt_ids[None]),
            "prompt_lengths": np.array([len(prompt_ids)], np.int64),
        }
        if on_device is None:
            feeds["image_features"] = image_features[None]
        length = self._image_tokens + len(prompt_ids)
        if self._memory is None:
            session = self._text_encoder_alone if alone else self._text_encoder
            return Encoded([array[0] for array in session.run(outputs, feeds)], length)
        binding = self._text_encoder.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        if on_device is not None:
            binding.bind_ortvalue_input("image_features", on_device)
        for name in outputs:
            binding.bind_output(name, self._memory.device)
        run(self._text_encoder, binding)
        return Encoded(binding.get_outputs(), length)

    def add(self, encoded: Encoded) -> int:
        """Begin a sequence; returns its row."""
        self._require_room()
        prompt = self._prompts
        self._encoder_lengths[prompt] = encoded.length
        self._prompts += 1
        row = self._append(prompt, kept=prompt)
        self._cross.put(prompt, encoded.arrays, encoded.length)
        return row

    def fork(self, source: int) -> int:
        """Begin a sequence that equals row `source` so far; returns its row."""
        self._require_room()
        row = self._append(int(self._prompt_of[source]), kept=self._prompts)
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
            self._prompt_of[target] = self._prompt_of[source]
            self.copy_past(source, target)
        self._set_rows(remaining)
        self._remove_prompts()
        if remaining:
            self._fit(remaining, self._prompts)
        return moved

    def step(self, tokens: list[int]) -> NDArray[np.float32]:
        """Feed one token to every row.

        Returns logits FP32 [rows, vocabulary] in a buffer that the next step overwrites; the caller may change it.
        """
        rows = self.rows
        if self._past_lengths[:rows].max() >= self._self.capacity:
            self._fit(rows, self._prompts)
        self._inputs_embeds[:rows, 0] = self._embedding(tokens)
        if self._binding is None:
            self._binding = self._bind()
        if self._memory is None:
            self._session.run_with_iobinding(self._binding)
        else:
            # Elsewhere than on a CPU an input is what it was when it was bound.
            self._bind_step(self._binding)
            run(self._session, self._binding)
        index, past = np.arange(rows), self._past_lengths[:rows]
        self._self.append(past)
        self._written[index, past] = self._writes + index
        self._writes += rows
        past += 1
        return self._logits[:rows]

    def _require_room(self) -> None:
        if self.rows == self.max_rows:
            raise RuntimeError(f"all {self.max_rows} rows of the decoder are taken")

    def _append(self, prompt: int, kept: int) -> int:
        """A row for `prompt`; the first `kept` prompts have their keys and values already."""
        row = self.rows
        self._prompt_of[row] = prompt
        self._past_lengths[row] = 0
        self._set_rows(row + 1)
        self._fit(row, kept)
        return row

    def _remove_prompts(self) -> None:
        """Forget prompts that no row has any more. Prompts from the end move into the gaps."""
        used = set(self._prompt_of[: self.rows].tolist())
        gaps = [prompt for prompt in range(len(used)) if prompt not in used]
        movers = sorted(used - set(range(len(used))))
        for source, target in zip(movers, gaps, strict=True):
            self._encoder_lengths[target] = self._encoder_lengths[source]
            self._cross.copy_row(source, target, 0, int(self._encoder_lengths[source]))
            self._prompt_of[: self.rows][self._prompt_of[: self.rows] == source] = target
        self._prompts = len(used)

    def _set_rows(self, rows: int) -> None:
        self.rows = rows
        self._binding = None

    def _fit(self, rows: int, prompts: int) -> None:
        """Give every row room for what it has and one token more, and every prompt for its length; the first `rows`
        rows and `prompts` prompts keep what they have."""
        past, encoder = self._past_lengths[: self.rows], self._encoder_lengths[: self._prompts]
        self._self.fit(int(past.max()) + 1, past[:rows])
        self._cross.fit(int(encoder.max()), encoder[:prompts])
        self._binding = None

    def _bind(self) -> onnxruntime.IOBinding:
        """Tell onnxruntime where the active rows lie: until rows or capacities change, a step passes no caches."""
        binding = self._session.io_binding()
        rows, prompts = self.rows, self._prompts
        # In attributes: a binding holds no reference to what it names.
        self._beside, self._places = _beside_prompts(self._prompt_of[:rows], prompts)
        self._bind_step(binding)
        bind_input(binding, "encoder_lengths", self._encoder_lengths[:prompts])
        bind_input(binding, "rows", self._beside)
        bind_input(binding, "places", self._places)
        bind_output(binding, "logits", self._logits[:rows])
        for layer in range(self._layers):
            for kind, index in (("key", 2 * layer), ("value", 2 * layer + 1)):
                self._self.bind(binding, f"self_{kind}_{layer}", index, rows)
                self._cross.bind(binding, f"cross_{kind}_{layer}", index, prompts)
                self._self.bind_new(binding, f"new_{kind}_{layer}", index, rows)
        return binding

    def _bind_step(self, binding: onnxruntime.IOBinding) -> None:
        """What changes at every step."""
        bind_input(binding, "inputs_embeds", self._inputs_embeds[: self.rows])
        bind_input(binding, "past_lengths", self._past_lengths[: self.rows])

    def _cache(self, *sizes: int) -> KeyValueCache | DeviceCache:
        return KeyValueCache(*sizes) if self._memory is None else DeviceCache(self._memory, *sizes)


def _beside_prompts(
    prompt_of: NDArray[np.int64], prompts: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The graph's inputs `rows` [prompts, K] and `places` [B] for rows of these prompts; K is the most that one has."""
    counts = np.bincount(prompt_of, minlength=prompts)
    beside = np.zeros((prompts, counts.max()), np.int64)
    by_prompt = np.argsort(prompt_of, kind="stable")
    which = prompt_of[by_prompt]
    rank = np.arange(len(prompt_of)) - (counts.cumsum() - counts)[which]
    beside[which, rank] = by_prompt
    places = np.empty(len(prompt_of), np.int64)
    places[by_prompt] = which * beside.shape[1] + rank
    return beside, places


def _tries(florence2: manifest.Florence2) -> list[dict[str, NDArray[Any]]]:
    """Noise for the text encoder, as features and prompts of some lengths."""
    noise, width = np.random.default_rng(0), florence2.feature_dim
    return [
        {
            "image_features": noise.standard_normal((1, florence2.image_tokens, width), np.float32),
            "inputs_embeds": noise.standard_normal((1, length, width), np.float32),
            "prompt_lengths": np.array([length], np.int64),
        }
        for length in (8, 13, 40)
    ]
