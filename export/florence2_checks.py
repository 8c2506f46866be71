"""What transformers' own Florence-2 computes, as cases for the exported graphs.

The references run one row at a time, without padding: agreement shows too that a row's answer does not depend on
what shares its batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Florence2ForConditionalGeneration
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from florence2_sam2.export.checks import Array, Case, compare, open_graph, run
from florence2_sam2.export.graphs import Graph
from florence2_sam2.export.normalisation import normalised, pixels_of
from florence2_sam2.server.manifest import ImageSpec

_GARBAGE = 50.0  # stands in cache entries that no row may look at


class Reference:
    """transformers' Florence-2 on one seeded set of pictures."""

    def __init__(self, model: Florence2ForConditionalGeneration, image: ImageSpec, seed: int = 1) -> None:
        self.model = model
        text: Any = model.config.text_config
        self.text = text
        self.random = np.random.default_rng(seed)
        self.pixels = smooth_noise(self.random, 3, image)
        values = torch.from_numpy(normalised(self.pixels, image))
        with torch.no_grad():
            self.features = torch.cat(
                [model.get_image_features(picture[None]).pooler_output for picture in values]
            )
        # of the first ids that are ordinary text
        self.vocabulary = min(text.vocab_size, 400)

    def tokens(self, *shape: int) -> NDArray[np.int64]:
        return self.random.integers(4, self.vocabulary, shape, dtype=np.int64)

    def vision_cases(self) -> Iterator[Case]:
        for batch in (1, 2):  # the exporter has seen 1
            yield Case(
                f"batch {batch}",
                {"pixels": self.pixels[:batch]},
                {"image_features": self.features[:batch].numpy()},
            )

    def text_encoder_cases(self) -> Iterator[Case]:
        for lengths in ([3], [2, 9], [7, 12, 5]):
            prompts = [self.tokens(length) for length in lengths]
            width = max(lengths)
            rows = [self.cross_cache(self.features[row], prompt) for row, prompt in enumerate(prompts)]
            expected = {
                name: np.stack([_padded(row[name], self.features.shape[1] + width, np.nan) for row in rows])
                for name in rows[0]
            }
            yield Case(
                f"prompt lengths {lengths}",
                {
                    "image_features": self.features[: len(lengths)].numpy(),
                    "inputs_embeds": self.prompts_embedded(
                        np.stack([np.pad(p, (0, width - len(p)), constant_values=1) for p in prompts])
                    ),
                    "prompt_lengths": np.array(lengths, dtype=np.int64),
                },
                expected,
            )

    def decoder_cases(self) -> Iterator[Case]:
        """Rows of different past, several of one prompt, blocks of one and several tokens, cache entries past a row's
        length filled. Each row is (the prompt that it is of, the length of its past)."""
        for rows, block, slack in (
            ([(0, 0)], 1, 0),
            ([(0, 0), (1, 0)], 4, 0),
            ([(0, 1)], 1, 0),
            ([(0, 17), (1, 0), (2, 5)], 1, 2),
            ([(1, 3), (0, 17), (1, 4), (1, 0)], 1, 0),
            ([(0, 3), (1, 17), (0, 6)], 3, 0),
        ):
            yield self._decoder_case(rows, block, max(past for _, past in rows) + slack)

    def _decoder_case(self, rows: list[tuple[int, int]], block: int, past: int) -> Case:
        own: dict[str, list[Array]] = {}
        cross: dict[str, dict[int, Array]] = {}
        expected: dict[str, list[Array]] = {}
        new_tokens = self.tokens(len(rows), block)
        prompts = [self.tokens(4 + 3 * number) for number in range(1 + max(prompt for prompt, _ in rows))]
        states = [self.encode(self.features[number], prompt) for number, prompt in enumerate(prompts)]
        encoder = max(state.shape[1] for state in states)
        beside: list[list[int]] = [[] for _ in prompts]
        for row, (prompt, past_length) in enumerate(rows):
            hidden = states[prompt]
            beside[prompt].append(row)
            cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
            if past_length:
                self.step(self.tokens(past_length), hidden, cache)
            for name, value in self.caches(cache.self_attention_cache, "self").items():
                own.setdefault(name, []).append(_padded(value, past, _GARBAGE))
            logits = self.step(new_tokens[row], hidden, cache)
            for name, value in self.caches(cache.cross_attention_cache, "cross").items():
                cross.setdefault(name, {})[prompt] = _padded(value, encoder, _GARBAGE)
            expected.setdefault("logits", []).append(logits)
            for name, value in self.caches(cache.self_attention_cache, "new").items():
                expected.setdefault(name, []).append(value[:, past_length:])
        beams = max(map(len, beside))
        return Case(
            f"rows of (prompt, past) {rows}, {block} new tokens",
            {
                "inputs_embeds": self.embedded(new_tokens),
                "past_lengths": np.array([past_length for _, past_length in rows], dtype=np.int64),
                "encoder_lengths": np.array([state.shape[1] for state in states], dtype=np.int64),
                # a prompt's last row stands in for those that it does not have
                "rows": np.array([found + found[-1:] * (beams - len(found)) for found in beside]),
                "places": np.array(
                    [prompt * beams + beside[prompt].index(row) for row, (prompt, _) in enumerate(rows)]
                ),
                **{name: np.stack(values) for name, values in own.items()},
                **{
                    name: np.stack([values[n] for n in range(len(prompts))]) for name, values in cross.items()
                },
            },
            {name: np.stack(values) for name, values in expected.items()},
        )

    @torch.no_grad()
    def prompts_embedded(self, tokens: NDArray[np.int64]) -> Array:
        """FP32 [B,P,D] of tokens [B,P]: what the text encoder looks up."""
        return self.model.get_input_embeddings()(torch.from_numpy(tokens)).numpy()

    @torch.no_grad()
    def embedded(self, tokens: NDArray[np.int64]) -> Array:
        """FP32 [..., D] of tokens [...], with the factor of scaled embeddings: what the decoder looks up."""
        return self.model.model.language_model.decoder.embed_tokens(torch.from_numpy(tokens)).numpy()

    def caches(self, cache: DynamicCache, prefix: str) -> dict[str, Array]:
        """A cache of one row as {`prefix_key_0`: [heads,length,head_dim], …}; a fresh one has length 0."""
        text = self.text
        heads = text.decoder_attention_heads
        named: dict[str, Array] = {}
        for index in range(text.decoder_layers):
            if index < len(cache.layers):
                layer: Any = cache.layers[index]
                key, value = layer.keys[0].numpy().copy(), layer.values[0].numpy().copy()
            else:
                key = value = np.zeros((heads, 0, text.d_model // heads), dtype=np.float32)
            named |= {f"{prefix}_key_{index}": key, f"{prefix}_value_{index}": value}
        return named

    @torch.no_grad()
    def encode(self, features: torch.Tensor, prompt: NDArray[np.int64]) -> torch.Tensor:
        """Encoder's last hidden state [1,T+P,D] of one row: placeholders replaced by features, as transformers does."""
        placeholders = torch.full((1, features.shape[0]), self.model.config.image_token_id)
        ids = torch.cat([placeholders, torch.from_numpy(prompt)[None]], dim=1)
        # ids of placeholders may lie outside the embedding; their embeddings are replaced anyway
        embeddings = self.model.get_input_embeddings()(ids.clamp(max=self.text.vocab_size - 1))
        embeddings = torch.cat([features[None], embeddings[:, features.shape[0] :]], dim=1)
        return self.model.model.language_model.encoder(inputs_embeds=embeddings).last_hidden_state

    @torch.no_grad()
    def step(self, tokens: NDArray[np.int64], hidden: torch.Tensor, cache: EncoderDecoderCache) -> Array:
        """Logits [vocabulary] after `tokens`; the cache grows by them."""
        output = self.model(
            decoder_input_ids=torch.from_numpy(tokens)[None],
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
            past_key_values=cache,
            use_cache=True,
        )
        return output.logits[0, -1].numpy()

    def cross_cache(self, features: torch.Tensor, prompt: NDArray[np.int64]) -> dict[str, Array]:
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.step(np.array([2], dtype=np.int64), self.encode(features, prompt), cache)
        return self.caches(cache.cross_attention_cache, "cross")


def check_generation(graph: Graph, path: Path, reference: Reference, steps: int = 12) -> tuple[float, float]:
    """Decode greedily with the file, feeding back what it returned; the logits' largest error and magnitude.

    Both sides are fed transformers' choice, so that a near tie cannot send them different ways.
    """
    session = open_graph(path)
    prompts = [reference.tokens(5), reference.tokens(11)]
    hidden = [reference.encode(reference.features[row], prompt) for row, prompt in enumerate(prompts)]
    caches = [EncoderDecoderCache(DynamicCache(), DynamicCache()) for _ in prompts]
    encoder = max(state.shape[1] for state in hidden)
    fresh = [reference.caches(cache.self_attention_cache, "self") for cache in caches]
    own = {name: np.stack([row[name] for row in fresh]) for name in fresh[0]}
    tokens = np.full((len(prompts), 1), 2, dtype=np.int64)
    errors, magnitudes = [], []
    for step in range(steps):
        expected = np.stack(
            [reference.step(tokens[row], hidden[row], caches[row]) for row in range(len(prompts))]
        )
        if step == 0:
            cross = [reference.caches(cache.cross_attention_cache, "cross") for cache in caches]
            own |= {
                name: np.stack([_padded(row[name], encoder, _GARBAGE) for row in cross]) for name in cross[0]
            }
        inputs = {
            "inputs_embeds": reference.embedded(tokens),
            "past_lengths": np.full(len(prompts), step, dtype=np.int64),
            "encoder_lengths": np.array([state.shape[1] for state in hidden], dtype=np.int64),
            "rows": np.arange(len(prompts))[:, None],
            "places": np.arange(len(prompts)),
            **own,
        }
        found = run(session, graph.file, f"step {step}", inputs)
        error, magnitude = compare(found["logits"], expected)
        errors.append(error)
        magnitudes.append(magnitude)
        for name, value in found.items():
            if name != "logits":
                cached = name.replace("new", "self")
                own[cached] = np.concatenate([own[cached], value], axis=2)
        tokens = expected.argmax(axis=-1)[:, None].astype(np.int64)
    return float(np.max(errors)), max(magnitudes)  # np.max keeps a NaN


def smooth_noise(random: np.random.Generator, batch: int, image: ImageSpec) -> NDArray[np.uint8]:
    """Pictures of a kind: coarse random patches with a little noise, [batch,3,height,width]."""
    coarse = torch.from_numpy(random.normal(size=(batch, 3, 8, 8)).astype(np.float32))
    size = (image.height, image.width)
    picture = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear").numpy()
    return pixels_of(picture + 0.1 * random.normal(size=picture.shape).astype(np.float32), image)


def _padded(value: Array, length: int, filler: float) -> Array:
    """Lengthen axis 1 of [heads,length,head_dim]."""
    return np.pad(value, ((0, 0), (0, length - value.shape[1]), (0, 0)), constant_values=filler)
