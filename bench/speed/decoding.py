"""Decoding alone, in one process as the server's: how much longer a step takes with more sequences."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from florence2_sam2.server import manifest
from florence2_sam2.server.florence2_prompts import Prompts
from florence2_sam2.server.generation.decoder import Decoder
from florence2_sam2.server.generation.engine import Engine
from florence2_sam2.server.generation.settings import resolve

TASK = "<MORE_DETAILED_CAPTION>"


class Decoding:
    """Sequences of one prompt on features that look like a picture's."""

    def __init__(self, repository: Path, rows: int) -> None:
        self._folder = manifest.version_folder(repository, "florence2")
        self._spec = manifest.Florence2.read(self._folder)
        self._prompt = Prompts(self._folder, self._spec).encode(TASK).ids
        random = np.random.default_rng(0)
        shape = (rows, self._spec.image_tokens, self._spec.feature_dim)
        self._features = random.standard_normal(shape).astype(np.float32)
        self._rows = rows
        self._decoder = Decoder(self._folder, self._spec, rows)
        self._encoded = [self._decoder.encode(features, self._prompt) for features in self._features]

    def steps(self, sequences: int, tokens: int) -> list[float]:
        """Seconds of each of `tokens` steps of `sequences` sequences, each fed the best token of its last step."""
        decoder = self._decoder
        for encoded in self._encoded[:sequences]:
            decoder.add(encoded)
        fed = [self._spec.tokens.decoder_start] * sequences
        seconds = []
        for _ in range(tokens):
            start = time.perf_counter()
            logits = decoder.step(fed)
            seconds.append(time.perf_counter() - start)
            fed = logits.argmax(axis=1).tolist()
        decoder.remove(range(sequences))
        return seconds

    def engine(self, sequences: int, tokens: int) -> float:
        """Seconds from handing `sequences` greedy requests of `tokens` tokens to the engine to the last answer: with
        the prompts' encoding, the search and the sequences' coming and going."""
        engine = Engine(self._decoder)
        try:
            settings = resolve(self._spec, num_beams=1, max_new_tokens=tokens, min_new_tokens=tokens)
            start = time.perf_counter()
            futures: list[Any] = [
                engine.submit(features, self._prompt, settings) for features in self._features[:sequences]
            ]
            for future in futures:
                assert len(future.result().token_ids) == tokens
            return time.perf_counter() - start
        finally:
            engine.close()
