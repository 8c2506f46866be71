"""The released configurations of Florence-2 and SAM2.1. What is not named is the default of transformers' classes.

Sources: for Florence-2 the config.json of Florence-2-base and Florence-2-large, as transformers' conversion script
(convert_florence2_original_pytorch_to_hf.py) takes them over; for SAM2.1 Meta's configs/sam2.1/*.yaml and the numbers
in transformers' conversion script (convert_sam2_to_hf.py), which agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

VOCABULARY = 51328  # 51290 tokens, padded to a multiple of 64 by the conversion


@dataclass(frozen=True)
class Florence2Size:
    """DaViT's widths and heads, and BART's; depths (1, 1, 9, 1) and windows of 12 are the same for both."""

    widths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]  # and channel groups
    d_model: int
    layers: int
    attention_heads: int
    ffn: int
    positions: int

    def vision_config(self) -> dict[str, Any]:
        return {
            "embed_dim": self.widths,
            "num_heads": self.heads,
            "num_groups": self.heads,
            "projection_dim": self.d_model,
        }

    def text_config(self) -> dict[str, Any]:
        return {
            "model_type": "bart",
            "vocab_size": VOCABULARY,
            "max_position_embeddings": self.positions,
            "d_model": self.d_model,
            "encoder_layers": self.layers,
            "encoder_attention_heads": self.attention_heads,
            "encoder_ffn_dim": self.ffn,
            "decoder_layers": self.layers,
            "decoder_attention_heads": self.attention_heads,
            "decoder_ffn_dim": self.ffn,
            "activation_function": "gelu",
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": 2,
        }


@dataclass(frozen=True)
class Sam2Size:
    """Hiera's first width (doubled with each stage), its first heads, its blocks and their windows."""

    width: int
    heads: int
    blocks: tuple[int, int, int, int]
    global_blocks: tuple[int, int, int]
    windows: tuple[int, int, int, int]
    background: tuple[int, int]  # size of the positional embedding beside the windows' own

    def vision_config(self) -> dict[str, Any]:
        widths = [self.width << stage for stage in range(4)]
        return {
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": self.width,
                "num_attention_heads": self.heads,
                "blocks_per_stage": list(self.blocks),
                "embed_dim_per_stage": widths,
                "num_attention_heads_per_stage": [self.heads << stage for stage in range(4)],
                "window_size_per_stage": list(self.windows),
                "global_attention_blocks": list(self.global_blocks),
                "window_positional_embedding_background_size": list(self.background),
            },
            "backbone_channel_list": widths[::-1],
        }


FLORENCE2 = {
    "florence2-base": Florence2Size((128, 256, 512, 1024), (4, 8, 16, 32), 768, 6, 12, 3072, positions=1024),
    "florence2-large": Florence2Size(
        (256, 512, 1024, 2048), (8, 16, 32, 64), 1024, 12, 16, 4096, positions=4096
    ),
}

SAM2 = {
    "sam2.1-hiera-tiny": Sam2Size(96, 1, (1, 2, 7, 2), (5, 7, 9), (8, 4, 14, 7), (7, 7)),
    "sam2.1-hiera-small": Sam2Size(96, 1, (1, 2, 11, 2), (7, 10, 13), (8, 4, 14, 7), (7, 7)),
    "sam2.1-hiera-base-plus": Sam2Size(112, 2, (2, 3, 16, 3), (12, 16, 20), (8, 4, 14, 7), (14, 14)),
    "sam2.1-hiera-large": Sam2Size(144, 2, (2, 6, 36, 4), (23, 33, 43), (8, 4, 16, 8), (7, 7)),
}
