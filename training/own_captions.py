"""The model's own captions as prompts of phrase grounding.

The service grounds what the model itself has written. Its mistakes are not those that anyone would make up: the one
red cup is called an apple because it looks like one, and no true phrase stands beside it that would claim the boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import Florence2ForConditionalGeneration, PreTrainedTokenizerFast

from florence2_sam2.training.captions import CAPTION_PROMPT, Mention
from florence2_sam2.training.scoring import phrases_of, read_phrase

MAX_WORDS = 100  # tokens; the longest true captions have about 70


@torch.no_grad()
def own_captions(
    model: Florence2ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, features: torch.Tensor
) -> list[str]:
    """What the model, greedy, says about pictures whose image tokens are `features`, float32 [B, T, D]."""
    language = model.model.language_model
    prompt = tokenizer(f"<s>{CAPTION_PROMPT}</s>", add_special_tokens=False, return_tensors="pt").input_ids
    prompts = prompt.expand(len(features), -1)
    encoded = language.encoder(inputs_embeds=torch.cat([features, language.shared(prompts)], 1))
    image = torch.full(features.shape[:2], model.config.image_token_id)
    speaker: Any = model  # `generate` is annotated for classes that this one is no subclass of
    said = speaker.generate(
        input_ids=torch.cat([image, prompts], 1),
        encoder_outputs=encoded,
        attention_mask=torch.ones(encoded.last_hidden_state.shape[:2], dtype=torch.long),
        do_sample=False,
        num_beams=1,
        early_stopping=False,
        max_new_tokens=MAX_WORDS,
    )
    return [text.strip() for text in tokenizer.batch_decode(said, skip_special_tokens=True)]


def heard(said: str, mentions: Sequence[Mention]) -> list[Mention]:
    """The phrases of `said` with the boxes of what is there; without any where nothing of that kind and colour is.

    A phrase said twice stands for its things the first time. Numbers and words of size need not be right.
    """
    left = {(m.kind, m.colour): m.boxes for m in mentions}
    found = []
    for phrase in phrases_of(said):
        pair = read_phrase(phrase) or ("", "")
        found.append(Mention(phrase, left.pop(pair, np.zeros((0, 4))), pair[0]))
    return found
