"""Florence-2's table of tokens, in a file of its own from which the server maps the rows that it looks up.

In the graphs it would be in memory three times: in the text encoder, in the decoder, and there once more, rearranged,
as the head that it is tied to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Florence2ForConditionalGeneration

from florence2_sam2.export.graphs import Precision
from florence2_sam2.server.generation.embedding import DECODER_EMBEDDING, EMBEDDING


def write_embedding(
    model: Florence2ForConditionalGeneration, folder: Path, precision: Precision
) -> list[Path]:
    """Write the rows [vocabulary, D] as `.npy`, as float16 where that holds them exactly or `precision` asks for it,
    else as float32. One file, and a second one for a decoder whose table is not the text encoder's."""
    language: Any = model.model.language_model
    prompt, own = _rows(language.shared), _rows(language.decoder.embed_tokens)
    tables = (
        {EMBEDDING: prompt} if np.array_equal(prompt, own) else {EMBEDDING: prompt, DECODER_EMBEDDING: own}
    )
    for name in (EMBEDDING, DECODER_EMBEDDING):
        (folder / name).unlink(missing_ok=True)  # never written over: it may be a link
    for name, rows in tables.items():
        with np.errstate(over="ignore"):
            halves = rows.astype(np.float16)
        exact = np.array_equal(halves, rows)
        wanted = precision == "fp16" and bool(np.isfinite(halves).all())
        np.save(folder / name, halves if exact or wanted else rows)
    return [folder / name for name in tables]


@torch.no_grad()
def _rows(embedding: Any) -> np.ndarray:
    """What the module gives for each token: a scaled embedding with its factor."""
    rows: np.ndarray = embedding(torch.arange(embedding.num_embeddings)).numpy()
    return rows
