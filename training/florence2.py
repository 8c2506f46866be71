"""A small Florence-2: its configuration, its starting weights, and its generation settings.

About 2.3 M parameters: a DaViT whose last stage keeps its grid (location needs it) and a BART of 2+2 layers.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import (
    BartConfig,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2VisionConfig,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

from florence2_sam2.training.captions import BINS
from florence2_sam2.training.initialise import scale_weights
from florence2_sam2.training.tokenizer import token_id

SIDE = 384  # pixels
STRIDE = 16  # pixels for each image token
GRID = SIDE // STRIDE
IMAGE_TOKENS = GRID * GRID + 1  # the mean comes first
WIDTH = 128


def make_config(tokenizer: PreTrainedTokenizerFast) -> Florence2Config:
    """The native configuration for this vocabulary."""
    vision = Florence2VisionConfig(
        embed_dim=[24, 48, 96, WIDTH],
        num_heads=[2, 4, 6, 8],
        num_groups=[2, 4, 6, 8],
        depths=[1, 1, 6, 2],
        patch_stride=[4, 2, 2, 1],
        window_size=GRID,
        drop_path_rate=0.0,
        mlp_ratio=3.0,
        projection_dim=WIDTH,
        max_position_embeddings=50,
        max_temporal_embeddings=100,
    )
    text = BartConfig(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=4 * WIDTH,
        decoder_ffn_dim=4 * WIDTH,
        max_position_embeddings=704,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        activation_function="gelu",
        scale_embedding=False,
        init_std=0.05,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
    )
    return Florence2Config(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_id=token_id(tokenizer, "<image>"),
    )


def generation_config(beams: int = 3) -> GenerationConfig:
    """The released checkpoints' settings, with a length that the drawn world never exceeds."""
    return GenerationConfig(
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_bos_token_id=0,
        forced_eos_token_id=2,
        num_beams=beams,
        no_repeat_ngram_size=3,
        early_stopping=beams > 1,
        max_new_tokens=160,
    )


def ordered_embedding(count: int, width: int, cycles: float) -> torch.Tensor:
    """Sines and cosines, float32 [count, width], of half a cycle to `cycles` / 2 cycles over the range."""
    frequency = np.exp(np.linspace(math.log(0.5), math.log(cycles / 2), width // 2))
    angle = 2 * np.pi * (np.arange(count)[:, None] / count) * frequency
    table = np.empty((count, width), np.float32)
    table[:, 0::2], table[:, 1::2] = np.sin(angle), np.cos(angle)
    return torch.from_numpy(table)


@torch.no_grad()
def new_model(tokenizer: PreTrainedTokenizerFast) -> Florence2ForConditionalGeneration:
    """An untrained model; call torch.manual_seed first.

    Location tokens and grid positions start in order, neighbours alike: a box is then a place and not four
    of a thousand unrelated words.
    """
    model = Florence2ForConditionalGeneration(make_config(tokenizer))
    scale_weights(model)
    first = token_id(tokenizer, "<loc_0>")
    words = model.model.language_model.shared.weight
    nn.init.normal_(words, 0, 0.05)
    words[first : first + BINS] = ordered_embedding(BINS, WIDTH, 40) * 0.06
    positions = model.model.multi_modal_projector.image_position_embed
    for table in (positions.row_embeddings.weight, positions.column_embeddings.weight):
        table.copy_(ordered_embedding(table.shape[0], table.shape[1], 12) * 0.5)
    model.tie_weights()
    model.generation_config = generation_config()
    return model


@torch.no_grad()
def start_from(
    model: Florence2ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: str | Path
) -> None:
    """Take over what fits from another small checkpoint, whose vocabulary, grid and depth may differ. In place.

    Words keep their vectors by spelling, grid positions are stretched to the new grid, and blocks that the
    other model lacks begin as the identity.
    """
    other = Florence2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    old_words = PreTrainedTokenizerFast.from_pretrained(folder).get_vocab()
    source, target = other.state_dict(), model.state_dict()
    for name, value in target.items():
        if name in source and source[name].shape == value.shape:
            value.copy_(source[name])
        elif "vision_tower.blocks" in name and name.endswith(
            ("conv1.weight", "conv2.weight", "proj.weight", "fc2.weight")
        ):
            value.zero_()
    shared = other.model.language_model.shared.weight
    words = model.model.language_model.shared.weight
    for word, index in tokenizer.get_vocab().items():
        if word in old_words:
            words[index] = shared[old_words[word]]
    vision = other.config.vision_config
    assert isinstance(vision, Florence2VisionConfig)
    old_grid = vision.window_size  # in these models a window spans the last stage's grid
    old, new = (m.model.multi_modal_projector.image_position_embed for m in (other, model))
    for axis in ("row_embeddings", "column_embeddings"):
        table = getattr(old, axis).weight[:old_grid].T[None]
        stretched = nn.functional.interpolate(table, size=GRID, mode="linear", align_corners=False)
        getattr(new, axis).weight[:GRID] = stretched[0].T
    model.tie_weights()
