"""A small SAM2: its configuration, its starting weights, and all of its mask tokens at once.

1.4 M parameters. The weights do not depend on the side of the picture: train small, then larger.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2MaskDecoderConfig,
    Sam2Model,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
)

from florence2_sam2.training.initialise import scale_weights

WIDTHS = (24, 48, 96, 192)  # channels of the four Hiera stages
HIDDEN = 128  # channels of the feature pyramid and the decoder
LOGIT_STRIDE = 4  # mask logits have a quarter of the picture's side


def make_config(side: int) -> Sam2Config:
    """The configuration for square pictures of `side` pixels, a multiple of 32."""
    quarter = side // 4
    backbone = Sam2HieraDetConfig(
        hidden_size=WIDTHS[0],
        num_attention_heads=1,
        image_size=[side, side],
        blocks_per_stage=[1, 1, 4, 1],
        embed_dim_per_stage=list(WIDTHS),
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[8, 4, 8, 4],
        global_attention_blocks=[3, 5],
        window_positional_embedding_background_size=[7, 7],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone.to_dict(),
        backbone_channel_list=list(WIDTHS[::-1]),
        backbone_feature_sizes=[[quarter // k, quarter // k] for k in (1, 2, 4)],
        fpn_hidden_size=HIDDEN,
        fpn_top_down_levels=[2, 3],
        num_feature_levels=3,
    )
    prompt = Sam2PromptEncoderConfig(
        hidden_size=HIDDEN, image_size=side, patch_size=16, mask_input_channels=16
    )
    decoder = Sam2MaskDecoderConfig(
        hidden_size=HIDDEN,
        mlp_dim=256,
        num_attention_heads=4,
        iou_head_hidden_dim=HIDDEN,
        attention_downsample_rate=2,
    )
    return Sam2Config(
        vision_config=vision.to_dict(),
        prompt_encoder_config=prompt.to_dict(),
        mask_decoder_config=decoder.to_dict(),
    )


@torch.no_grad()
def new_model(side: int) -> Sam2Model:
    """An untrained model; call torch.manual_seed first."""
    model = Sam2Model(make_config(side))
    scale_weights(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):  # as the original SAM; smaller ones make all tokens alike
            nn.init.normal_(module.weight, 0, 0.1 if "no_mask" in name else 1.0)
    for embedding in (
        model.vision_encoder.backbone.pos_embed,
        model.vision_encoder.backbone.pos_embed_window,
    ):
        embedding.normal_(0, 0.02)
    # boxes and picture positions must be written in the same Fourier basis to be comparable
    basis = model.shared_image_embedding.positional_embedding
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(basis)
    return model


def side_of(model: Sam2Model) -> int:
    """The side in pixels of the square pictures that the model takes."""
    return int(model.prompt_encoder.input_image_size)  # type: ignore[arg-type]  # ours are square


def with_side(model: Sam2Model, side: int) -> Sam2Model:
    """The same weights in a model for pictures of another side."""
    other = Sam2Model(make_config(side))
    other.load_state_dict(model.state_dict())
    return other.train(model.training)


def image_features(model: Sam2Model, pixels: torch.Tensor) -> list[torch.Tensor]:
    """`get_image_embeddings` with gradients: three maps, of stride 4, 8 and 16, each [B, C, h, w]."""
    maps = list(model.get_image_features(pixels, return_dict=True).fpn_hidden_states)
    maps[-1] = maps[-1] + model.no_memory_embedding
    sizes = model.backbone_feature_sizes
    return [m.permute(1, 2, 0).reshape(len(pixels), -1, *size) for m, size in zip(maps, sizes, strict=True)]


@contextmanager
def _every_token(decoder: nn.Module) -> Iterator[None]:
    """Let the decoder return all four masks: its choice by stability is replaced by no choice.

    The choice is made in eval mode only; the decoder has no dropout, so eval mode changes nothing else.
    """
    training = decoder.training
    decoder.eval()
    decoder._dynamic_multimask_via_stability = lambda masks, scores: (masks, scores)  # type: ignore[assignment]
    try:
        yield
    finally:
        del decoder._dynamic_multimask_via_stability
        decoder.train(training)


def every_mask(
    model: Sam2Model, features: list[torch.Tensor], boxes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits [B, P, 4, S/4, S/4], predicted IoU [B, P, 4] and object logits [B, P, 1] for boxes [B, P, 4] in pixels."""
    sparse, dense = model.prompt_encoder(
        input_points=None, input_labels=None, input_boxes=boxes, input_masks=None
    )
    positions = model.get_image_wide_positional_embeddings().repeat(len(boxes), 1, 1, 1)
    with _every_token(model.mask_decoder):
        masks, scores, _, objects = model.mask_decoder(
            image_embeddings=features[-1],
            image_positional_embeddings=positions,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
            high_resolution_features=features[:-1],
        )
    return masks, scores, objects
