"""Full-size checkpoints with seeded random weights, for places without the released ones.

Florence-2-base and SAM2.1-hiera-tiny in their released configurations, saved as ordinary `from_pretrained` folders.
Sizes, speed, memory and parity measured with them are real; captions and masks are noise.
"""

from __future__ import annotations

import argparse
import inspect
import json
from itertools import product
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    CLIPImageProcessorPil,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Sam2Config,
    Sam2Model,
)

IMAGE_SIZE = 768
IMAGE_TOKENS = 577  # (768 / 32)² and the mean
BPE_IDS = 50260  # BART's, without the filler words and <mask> that follow
VOCABULARY = 51328  # 51290 tokens, padded to a multiple of 64 by transformers' conversion

# In the released tokenizer's order: <od> … are 50265 and up, <loc_0> is 50269.
ADDED = [
    *("</od>", "<od>", "</ocr>", "<ocr>"),
    *(f"<loc_{number}>" for number in range(1000)),
    *("<cap>", "</cap>", "<ncap>", "</ncap>", "<dcap>", "</dcap>", "<grounding>", "</grounding>"),
    *("<seg>", "</seg>", "<sep>", "<region_cap>", "</region_cap>"),
    *("<region_to_desciption>", "</region_to_desciption>", "<proposal>", "</proposal>", "<poly>", "</poly>"),
    *("<and>", "<image>"),
]

# Florence-2-base's text part; what is not named is BART's default.
TEXT = {
    "model_type": "bart",
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 1024,
    "d_model": 768,
    "encoder_layers": 6,
    "encoder_attention_heads": 12,
    "encoder_ffn_dim": 3072,
    "decoder_layers": 6,
    "decoder_attention_heads": 12,
    "decoder_ffn_dim": 3072,
    "activation_function": "gelu",
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}

BANNED = [
    "it",
    "they",
    "this",
    "who",
    "the",
    "a",
    "image",
    "the image",
    "a group",
    "other objects",
    "lots",
    "a set",
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


def _prompts() -> list[str]:
    """What Florence-2 is asked, so that prompts have about as many tokens as with the released tokenizer."""
    return [line for line in inspect.getsource(Florence2Processor).splitlines() if '": "' in line] * 5


def make_florence2(folder: Path, seed: int) -> None:
    tokenizer = make_tokenizer()
    image_processor = CLIPImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        do_center_crop=False,
        resample=3,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    image_processor.image_seq_length = IMAGE_TOKENS
    processor = Florence2Processor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        post_processor_config={
            "phrase_grounding": {"banned_grounding_tokens": BANNED},
            "ocr": {},
            "pure_text": {},
        },
    )
    torch.manual_seed(seed)
    config = Florence2Config(
        vision_config={
            "projection_dim": 768
        },  # all else is the released default: DaViT-base, 24×24 positions
        text_config=TEXT,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = Florence2ForConditionalGeneration(config).eval()
    model.generation_config = GenerationConfig(
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_bos_token_id=0,
        forced_eos_token_id=2,
        no_repeat_ngram_size=3,
        num_beams=3,
        early_stopping=True,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def make_sam2(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    model = Sam2Model(Sam2Config()).eval()  # the defaults are SAM2.1-hiera-tiny's
    with torch.no_grad():
        # transformers leaves these at zero or so small that all masks would be nearly equal and parity easy.
        for parameter in (
            model.no_memory_embedding,
            model.vision_encoder.backbone.pos_embed,
            model.vision_encoder.backbone.pos_embed_window,
        ):
            nn.init.normal_(parameter, std=0.1)
        for module in (*model.mask_decoder.modules(), *model.prompt_encoder.modules()):
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, gain=1.5)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight)
            elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.kaiming_normal_(module.weight)
    model.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", type=Path, help="florence2-base and sam2.1-hiera-tiny are made in it (1.1 GB)"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    florence2, sam2 = arguments.folder / "florence2-base", arguments.folder / "sam2.1-hiera-tiny"
    make_florence2(florence2, arguments.seed)
    make_sam2(sam2, arguments.seed)
    print(
        f"florence2-sam2 export --florence2 {florence2} --sam2 {sam2} --output {arguments.folder / 'repository'}"
    )


if __name__ == "__main__":
    main()
