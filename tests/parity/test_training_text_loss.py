"""What the words of a caption weigh in training, and how certain the model is of what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import Florence2ForConditionalGeneration, PreTrainedTokenizerFast

from florence2_sam2.training.captions import CAPTION_PROMPT, Mention, caption
from florence2_sam2.training.florence2 import IMAGE_TOKENS, WIDTH
from florence2_sam2.training.text_loss import NUMBER_WEIGHT, TextLoss
from florence2_sam2.training.tokenizer import token_id

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


def test_certainty_is_the_probability_of_colour_and_kind() -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(TOKENIZER)
    model = Florence2ForConditionalGeneration.from_pretrained(TOKENIZER, dtype=torch.float32).eval()
    torch.manual_seed(0)
    features = torch.randn(2, IMAGE_TOKENS, WIDTH)
    phrases = [["two blue cups", "a large red car", "a blue bird", "a wooden table"], ["an orange leaf"]]
    captions = [caption([Mention(p, np.zeros((1, 4))) for p in said], "a green meadow") for said in phrases]
    found = TextLoss(model, tokenizer).certainty(features, captions, phrases)
    # Words that could stand in a word's place without being wrong: another thing may come first.
    as_good = {
        "cups": ["bird"],
        "bird": ["cups"],
        "blue": ["red", "wooden"],
        "red": ["blue", "wooden"],
        "wooden": ["red", "blue"],
    }
    for row, said in enumerate(phrases):
        ids = tokenizer(f"<s>{captions[row]}</s>", add_special_tokens=False, return_tensors="pt").input_ids
        prompt = tokenizer(
            f"<s>{CAPTION_PROMPT}</s>", add_special_tokens=False, return_tensors="pt"
        ).input_ids
        with torch.no_grad():
            language = model.model.language_model
            embedded = torch.cat([features[row : row + 1], language.shared(prompt)], 1)
            shifted = torch.cat([torch.tensor([[2]]), ids[:, :-1]], 1)
            hidden = language(inputs_embeds=embedded, decoder_input_ids=shifted).last_hidden_state
            likely = model.lm_head(hidden)[0].softmax(-1)
        words = tokenizer.convert_ids_to_tokens(ids[0])
        for phrase, certainty in zip(said, found[row], strict=True):
            kind_place = words.index("\u0120" + phrase.split()[-1])
            expected = 1.0
            for place in (kind_place - 1, kind_place):
                others = as_good.get(words[place].removeprefix("\u0120"), [])
                excused = sum(float(likely[place, token_id(tokenizer, "\u0120" + w)]) for w in others)
                expected *= float(likely[place, ids[0, place]]) / (1 - excused)
            assert certainty == pytest.approx(expected, rel=1e-3, abs=1e-7)
