"""What the words of a caption weigh in training: numbers more than others, and numbers that are wrong nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from florence2_sam2.training.captions import Mention, caption
from florence2_sam2.training.text_loss import NUMBER_WEIGHT, TextLoss

TOKENIZER = Path(__file__).resolve().parents[2] / "models" / "small" / "florence2"


def test_numbers_weigh_more_and_wrong_ones_nothing() -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(TOKENIZER)
    loss = TextLoss(cast(Any, None), tokenizer)
    box = np.zeros((1, 4))
    phrases = ("a large red car", "two blue cups", "an orange leaf", "a wooden table")
    text = caption([Mention(phrase, box) for phrase in phrases], "a green meadow")
    ids = tokenizer(text, add_special_tokens=False).input_ids
    weights = loss._word_weights(torch.tensor([ids]), [[True, False, True, True]])[0].tolist()
    words = [token.removeprefix("\u0120") for token in tokenizer.convert_ids_to_tokens(ids)]
    weighed = [(word, weight) for word, weight in zip(words, weights, strict=True) if weight != 1]
    # The background's article counts as a number too.
    assert weighed == [("a", NUMBER_WEIGHT), ("two", 0), ("an", NUMBER_WEIGHT), *[("a", NUMBER_WEIGHT)] * 2]
