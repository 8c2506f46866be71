"""What decides the tokens of one request besides the logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from florence2_sam2.server import manifest


@dataclass(frozen=True)
class Settings:
    """Generation settings of one request, in transformers' names and with transformers' meaning.

    `max_new_tokens` counts every token after `decoder_start`, the forced first one and the end token among them.
    """

    decoder_start: int
    eos: int
    max_new_tokens: int
    num_beams: int = 1
    min_new_tokens: int = 0
    no_repeat_ngram_size: int = 0
    forced_bos: int | None = None
    forced_eos: int | None = None
    early_stopping: bool | Literal["never"] = False
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.num_beams < 1 or self.max_new_tokens < 1 or self.min_new_tokens < 0:
            raise ValueError(f"no sequence fits these settings: {self}")

    def forced(self, generated: int) -> int | None:
        """The token that must follow `generated` tokens, or None.

        As in transformers, the end at the length limit outranks the forced first token.
        """
        if self.forced_eos is not None and generated == self.max_new_tokens - 1:
            return self.forced_eos
        return self.forced_bos if generated == 0 else None


def resolve(
    florence2: manifest.Florence2,
    num_beams: int | None = None,
    max_new_tokens: int | None = None,
    min_new_tokens: int | None = None,
) -> Settings:
    """The checkpoint's settings with a request's own on top of them.

    Without a request's `max_new_tokens` it is the checkpoint's, cut to the decoder's positions.
    """
    generation, tokens = florence2.generation, florence2.tokens
    positions = florence2.decoder.decoder_positions
    limit = max_new_tokens or min(generation.max_new_tokens or positions, positions)
    if min_new_tokens is None:
        min_new_tokens = min(generation.min_new_tokens, limit)
    return Settings(
        decoder_start=tokens.decoder_start,
        eos=tokens.eos,
        max_new_tokens=limit,
        num_beams=num_beams or generation.num_beams,
        min_new_tokens=min_new_tokens,
        no_repeat_ngram_size=generation.no_repeat_ngram_size,
        forced_bos=generation.forced_bos,
        forced_eos=generation.forced_eos,
        early_stopping=generation.early_stopping,
        length_penalty=generation.length_penalty,
    )
