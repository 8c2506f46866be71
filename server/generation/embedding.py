"""Tokens to vectors, from a table on the disk: rows are read when they are looked up and stay in the system's cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

EMBEDDING = "embedding.npy"
DECODER_EMBEDDING = "decoder_embedding.npy"  # only where the decoder's table is not the text encoder's


class Embedding:
    """A table of tokens, FP32 or FP16 [vocabulary, D] in a `.npy` file.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: it is no such file.
    """

    def __init__(self, path: Path) -> None:
        # Without the class for mapped arrays, whose bookkeeping takes longer than a lookup.
        self._rows = np.load(path, mmap_mode="r").view(np.ndarray)
        self.width: int = self._rows.shape[1]

    def __call__(self, ids: ArrayLike) -> NDArray[np.float32]:
        """FP32 [..., D] of ids INT64 [...]."""
        rows: NDArray[np.float32] = self._rows[ids].astype(np.float32, copy=False)
        return rows


def embeddings(folder: Path) -> tuple[Embedding, Embedding]:
    """Of the prompt, and of what is generated."""
    prompt, own = Embedding(folder / EMBEDDING), folder / DECODER_EMBEDDING
    return prompt, Embedding(own) if own.exists() else prompt
