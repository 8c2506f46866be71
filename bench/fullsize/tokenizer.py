"""A tokenizer with the released layout of ids: BART's 50265, then the special tokens of Florence-2, then `<image>`."""

from __future__ import annotations

import argparse
import inspect
import json
from itertools import product

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import Florence2Processor, PreTrainedTokenizerFast

BPE_IDS = 50260  # BART's, without the filler words and <mask> that follow

# In the order in which Florence-2's processor adds them: <od> is 50265, <loc_0> is 50269, <image> 51289.
ADDED = [
    *("<od>", "</od>", "<ocr>", "</ocr>"),
    *(f"<loc_{number}>" for number in range(1000)),
    *("<cap>", "</cap>", "<ncap>", "</ncap>", "<dcap>", "</dcap>", "<grounding>", "</grounding>"),
    *("<seg>", "</seg>", "<sep>", "<region_cap>", "</region_cap>"),
    *("<region_to_desciption>", "</region_to_desciption>", "<proposal>", "</proposal>", "<poly>", "</poly>"),
    *("<and>", "<image>"),
]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with the released layout of ids. Its merges come from some English text, then from fillers."""
    text = [
        inspect.getdoc(module) or ""
        for module in (argparse, inspect, json, torch, torch.nn.functional.conv2d)
    ]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.train_from_iterator(
        [*text, *_prompts()],
        trainers.BpeTrainer(
            vocab_size=4000,
            special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    state = json.loads(trained.to_str())["model"]
    vocabulary: dict[str, int] = state["vocab"]
    merges = [tuple(pair) for pair in state["merges"]]
    # Fillers join characters of bytes that no text in UTF-8 starts with, so that they never occur in ordinary text.
    rare = sorted(character for character in pre_tokenizers.ByteLevel.alphabet() if ord(character) > 0xF4)
    pairs = [(left, right) for left, right in product(rare, rare)]
    triples = ((left + right, last) for left, right in pairs for last in rare)
    for left, right in (*pairs, *triples):
        if len(vocabulary) == BPE_IDS:
            break
        if left in vocabulary and left + right not in vocabulary:
            vocabulary[left + right] = len(vocabulary)
            merges.append((left, right))
    for number in range(4):
        vocabulary[f"madeupword{number:04}"] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True)])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ADDED])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        sep_token="</s>",
        cls_token="<s>",
        mask_token="<mask>",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=1024,
    )


def unspeakable(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The ids that stand for no printable ASCII: fillers, bytes of other characters, added tokens."""
    texts = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    added = set(tokenizer.get_added_vocab().values())
    words = [token.replace("Ġ", " ") for token in texts]  # byte-level BPE's spelling of a space
    return [
        number
        for number, word in enumerate(words)
        if number in added or number >= BPE_IDS or not (word.isascii() and word.isprintable())
    ]


def _prompts() -> list[str]:
    """What Florence-2 is asked, so that prompts have about as many tokens as with the released tokenizer."""
    return [line for line in inspect.getsource(Florence2Processor).splitlines() if '": "' in line] * 5
