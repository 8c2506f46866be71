"""Florence-2 as three ONNX graphs: vision encoder, text encoder, text decoder.

transformers' own modules do the computing. The wrappers change what a server needs changed: image features and prompt
are joined without placeholder tokens, rows of a batch have lengths of their own, the cross-attention's keys and values
are computed once per request, and the decoder returns the keys and values of the new positions only. Tokens are looked
up outside (see `embedding`): the table would be in memory in both graphs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import Florence2ForConditionalGeneration

from florence2_sam2.export.graphs import Graph, Tensor
from florence2_sam2.export.normalisation import Normalisation
from florence2_sam2.server.manifest import ImageSpec

VISION_ENCODER = "florence2_vision_encoder/1/model.onnx"
TEXT_ENCODER = "florence2/1/text_encoder.onnx"
DECODER = "florence2/1/decoder.onnx"

# Added to the scores of positions that must not be seen. Large enough that their weight after softmax is exactly 0,
# small enough for float16 (largest finite number 65504) with a score beside it.
MASKED = -30000.0


class VisionEncoder(nn.Module):
    """`pixels` UINT8 [B,3,H,W] → `image_features` FP32 [B,T,D], the multi-modal projector included."""

    tower: Any
    projector: Any

    def __init__(self, model: Any, image: ImageSpec) -> None:
        super().__init__()
        self.normalisation = Normalisation(image)
        self.tower = model.model.vision_tower
        self.projector = model.model.multi_modal_projector

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.projector(self.tower(self.normalisation(pixels)).last_hidden_state)


class TextEncoder(nn.Module):
    """Image features and embedded prompt → for each decoder layer the cross-attention's key and value
    [B,heads,T+P,head_dim]."""

    encoder: Any
    cross_attentions: Any

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model.model.language_model.encoder
        self.cross_attentions = nn.ModuleList(
            layer.encoder_attn for layer in model.model.language_model.decoder.layers
        )

    def forward(
        self, image_features: torch.Tensor, inputs_embeds: torch.Tensor, prompt_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        hidden = torch.cat([image_features, inputs_embeds], dim=1)
        positions = torch.arange(hidden.shape[1])
        hidden = hidden + _positions(self.encoder.embed_positions, positions)
        hidden = self.encoder.layernorm_embedding(hidden)
        valid = positions[None, :] < (image_features.shape[1] + prompt_lengths)[:, None]
        mask = _additive(valid)[:, None, None, :]
        for layer in self.encoder.layers:
            hidden = layer(hidden, mask)
        pairs = [
            (_heads(cross, cross.k_proj(hidden)), _heads(cross, cross.v_proj(hidden)))
            for cross in self.cross_attentions
        ]
        return tuple(tensor for pair in pairs for tensor in pair)


class Decoder(nn.Module):
    """A block of N new tokens per row, after Q cached positions, of which each row has its own number.

    Past and new keys are scored apart and only the scores are joined: joining the keys and values themselves would
    copy the whole cache at every token.

    The beams of a request share its cross-attention keys and values: `rows` [R,K] says which rows are those of request
    r (any row, where it has fewer than K), `places` [B] where among these R·K a row finds its answer. Each is a product
    of its own with the same keys, so a row has the same bits whatever K is.
    """

    decoder: Any
    head: Any

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder = model.model.language_model.decoder
        self.head = model.lm_head

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        past_lengths: torch.Tensor,
        encoder_lengths: torch.Tensor,
        rows: torch.Tensor,
        places: torch.Tensor,
        *caches: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        layers = self.decoder.layers
        self_caches, cross_caches = caches[: 2 * len(layers)], caches[2 * len(layers) :]
        block = torch.arange(inputs_embeds.shape[1])
        past = torch.arange(self_caches[0].shape[2])
        encoder = torch.arange(cross_caches[0].shape[2])
        past_mask = _additive(past[None, :] < past_lengths[:, None])[:, None, None, :]
        block_mask = _additive(block[None, :] <= block[:, None])[None, None]
        cross_mask = _additive(encoder[None, :] < encoder_lengths[:, None])[:, None, None, None, :]

        positions = past_lengths[:, None] + block[None, :]
        hidden = inputs_embeds + _positions(self.decoder.embed_positions, positions)
        hidden = self.decoder.layernorm_embedding(hidden)
        new: list[torch.Tensor] = []
        for index, layer in enumerate(layers):
            attention = layer.self_attn
            key = _heads(attention, attention.k_proj(hidden))
            value = _heads(attention, attention.v_proj(hidden))
            past_key, past_value = self_caches[2 * index : 2 * index + 2]
            query = _heads(attention, attention.q_proj(hidden)) * attention.scaling
            past_scores = query @ past_key.transpose(2, 3) + past_mask
            new_scores = query @ key.transpose(2, 3) + block_mask
            weights = torch.softmax(torch.cat([past_scores, new_scores], dim=-1), dim=-1)
            past_weights, new_weights = weights[..., : past_key.shape[2]], weights[..., past_key.shape[2] :]
            attended = past_weights @ past_value + new_weights @ value
            hidden = layer.self_attn_layer_norm(hidden + attention.out_proj(_joined(attended)))

            attention = layer.encoder_attn
            cross_key, cross_value = cross_caches[2 * index : 2 * index + 2]
            query = _heads(attention, (attention.q_proj(hidden) * attention.scaling)[rows])
            weights = torch.softmax(query @ cross_key[:, :, None].transpose(3, 4) + cross_mask, dim=-1)
            attended = _joined(weights @ cross_value[:, :, None]).flatten(0, 1)[places]
            hidden = layer.encoder_attn_layer_norm(hidden + attention.out_proj(attended))

            feed_forward = layer.fc2(layer.activation_fn(layer.fc1(hidden)))
            hidden = layer.final_layer_norm(hidden + feed_forward)
            new += [key, value]
        # `addmm` becomes one Gemm on the weight as it lies, so that a tied embedding and head are stored once.
        bias = torch.zeros(1) if self.head.bias is None else self.head.bias
        logits = torch.addmm(bias, hidden[:, -1], self.head.weight.t())
        return logits, *new


def graphs(model: Florence2ForConditionalGeneration, image: ImageSpec) -> tuple[Graph, Graph, Graph]:
    """The three graphs of `model` for pictures of `image`'s size and normalisation."""
    configuration: Any = model.config
    text = configuration.text_config
    heads, head_dim = text.decoder_attention_heads, text.d_model // text.decoder_attention_heads
    layers = range(text.decoder_layers)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (1, 3, image.height, image.width), generator=generator, dtype=torch.uint8)
    vision = VisionEncoder(model, image)
    with torch.no_grad():
        features = vision(pixels)
    image_tokens, feature_dim = features.shape[1:]

    def pairs(prefix: str, batch: str, length: str) -> tuple[Tensor, ...]:
        axes = (batch, heads, length, head_dim)
        return tuple(
            Tensor(f"{prefix}_{part}_{layer}", axes) for layer in layers for part in ("key", "value")
        )

    prompt = torch.randn(2, 5, text.d_model, generator=generator)
    encoder_length = image_tokens + prompt.shape[1]
    cache = [torch.randn(3, heads, 4, head_dim, generator=generator) for _ in range(2 * text.decoder_layers)]
    cross = [
        torch.randn(2, heads, encoder_length, head_dim, generator=generator)
        for _ in range(2 * text.decoder_layers)
    ]
    return (
        Graph(
            VISION_ENCODER,
            vision,
            (Tensor("pixels", ("batch", 3, image.height, image.width)),),
            (Tensor("image_features", ("batch", image_tokens, feature_dim)),),
            (pixels,),
            float32_scopes=("normalisation",),
            fusible=True,
        ),
        Graph(
            TEXT_ENCODER,
            TextEncoder(model),
            (
                Tensor("image_features", ("batch", image_tokens, feature_dim)),
                Tensor("inputs_embeds", ("batch", "prompt", text.d_model)),
                Tensor("prompt_lengths", ("batch",)),
            ),
            pairs("cross", "batch", "encoder"),
            (features.repeat(2, 1, 1), prompt, torch.tensor([5, 3])),
            fusible=True,
        ),
        Graph(
            DECODER,
            Decoder(model),
            (
                Tensor("inputs_embeds", ("batch", "block", text.d_model)),
                Tensor("past_lengths", ("batch",)),
                Tensor("encoder_lengths", ("requests",)),
                Tensor("rows", ("requests", "beams")),
                Tensor("places", ("batch",)),
                *pairs("self", "batch", "past"),
                *pairs("cross", "requests", "encoder"),
            ),
            (Tensor("logits", ("batch", text.vocab_size)), *pairs("new", "batch", "block")),
            (
                torch.randn(3, 3, text.d_model, generator=generator),
                torch.tensor([3, 4, 1]),
                torch.tensor([encoder_length, encoder_length - 2]),
                torch.tensor([[0, 2], [1, 1]]),
                torch.tensor([0, 2, 1]),
                *cache,
                *cross,
            ),
        ),
    )


def _positions(embedding: Any, positions: torch.Tensor) -> torch.Tensor:
    """BART's learned positions: row `offset` (2) of the table is position 0."""
    return nn.functional.embedding(positions + embedding.offset, embedding.weight)


def _additive(seen: torch.Tensor) -> torch.Tensor:
    return torch.where(seen, torch.tensor(0.0), torch.tensor(MASKED))


def _heads(attention: Any, projected: torch.Tensor) -> torch.Tensor:
    """[B,N,heads·head_dim] → [B,heads,N,head_dim]; with axes between B and N, these → between heads and N."""
    parts = projected.unflatten(-1, (attention.num_heads, attention.head_dim))
    return parts.movedim(parts.dim() - 2, 1)


def _joined(attended: torch.Tensor) -> torch.Tensor:
    """What `_heads` has done, undone."""
    return attended.movedim(1, attended.dim() - 2).flatten(-2)
