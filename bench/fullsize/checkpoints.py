"""Checkpoints in the released configurations with seeded random weights, for places without the released ones.

Sizes, speed, memory and parity measured with them are real; captions and masks are noise.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn
from transformers import (
    CLIPImageProcessorPil,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    GenerationConfig,
    Sam2Config,
    Sam2Model,
)

from bench.fullsize.sizes import FLORENCE2, SAM2, Florence2Size, Sam2Size
from bench.fullsize.tokenizer import make_tokenizer, unspeakable

SEED = 0
IMAGE_SIZE = 768
IMAGE_TOKENS = 577  # (768 / 32)² and the mean

# Some of the released processor's, in its spelling.
BANNED = [
    *("it", "they", "this", "who", "the", "a", "image", "the image", "a group", "other objects", "lots"),
    "a set",
]


def make(name: str, folder: Path) -> None:
    """Write the checkpoint `name`, a key of `FLORENCE2` or `SAM2`, to `folder`."""
    torch.manual_seed(SEED)
    if name in FLORENCE2:
        make_florence2(FLORENCE2[name], folder)
    else:
        make_sam2(SAM2[name], folder)


def make_florence2(size: Florence2Size, folder: Path) -> None:
    """transformers' own initialisation, whose layer norms keep activations within ±100 through all layers."""
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
    config = Florence2Config(
        vision_config=size.vision_config(),
        text_config=size.text_config(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = Florence2ForConditionalGeneration(config).eval()
    # The logit of a token whose embedding is zero is never the best: answers are words, and as a prompt they have about
    # as many tokens again. Freely drawn they would be bytes of no character, several tokens each when read again.
    with torch.no_grad():
        model.get_input_embeddings().weight[unspeakable(tokenizer)] = 0
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


def make_sam2(size: Sam2Size, folder: Path) -> None:
    model = Sam2Model(Sam2Config(vision_config=size.vision_config())).eval()
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


if __name__ == "__main__":
    make(sys.argv[1], Path(sys.argv[2]))
