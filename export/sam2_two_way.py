"""SAM2's two-way transformer: a box's few tokens attend to the picture's many positions, and these to them.

A layer projects every position to keys and values of all heads, and the tokens' answers back, for each box anew.
There are fewer tokens than a head is wide (9, and 16). So weights are moved to the tokens' side: `(x·Wᵀ)·q` is
`x·(Wᵀ·q)`, and what is computed for a position is heads × tokens numbers wide, 72 in place of 128. What a bias adds to
all scores of a softmax alike is left out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class TokensToImage(nn.Module):
    """Tokens [N,T,C] attend to positions: `placed` [1 or N,P,C] to be found by, `keys` [1 or N,P,C] to be read."""

    attention: Any

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, tokens: torch.Tensor, placed: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        attention = self.attention
        heads, count = attention.num_attention_heads, tokens.shape[1]
        query = _heads(attention, attention.q_proj(tokens)) * attention.scaling
        asked = (query @ _rows_of_heads(attention.k_proj, heads)).flatten(1, 2)  # [N,heads·T,C]
        weights = torch.softmax(asked @ placed.transpose(1, 2), dim=-1)
        read = (weights @ keys).unflatten(1, (heads, count))
        value = read @ _rows_of_heads(attention.v_proj, heads).transpose(1, 2)  # [N,heads,T,head_dim]
        bias = attention.v_proj.bias.unflatten(0, (heads, 1, -1))
        return attention.o_proj((value + bias).transpose(1, 2).flatten(2))


class ImageToTokens(nn.Module):
    """Positions `placed` [1 or N,P,C] attend to tokens: `named` [N,T,C] to be found by, `tokens` [N,T,C] to be read.

    Gives [N,P,C].
    """

    attention: Any

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, placed: torch.Tensor, named: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        attention = self.attention
        heads, count = attention.num_attention_heads, tokens.shape[1]
        key = _heads(attention, attention.k_proj(named)) * attention.scaling
        offered = (key @ _rows_of_heads(attention.q_proj, heads)).flatten(1, 2)  # [N,heads·T,C]
        bias = (key @ attention.q_proj.bias.unflatten(0, (heads, -1, 1))).flatten(1)  # [N,heads·T]
        scores = placed @ offered.transpose(1, 2) + bias[:, None]
        weights = torch.softmax(scores.unflatten(2, (heads, count)), dim=-1).flatten(2)
        # Each head's weights have the sum 1: a part of the last bias with each of its values is the bias.
        value = _heads(attention, attention.v_proj(tokens)) @ _columns_of_heads(attention.o_proj, heads)
        return weights @ (value + attention.o_proj.bias / heads).flatten(1, 2)


class TwoWayLayer(nn.Module):
    """One two-way block: tokens [N,T,C] attend to themselves and the picture, the picture [1 or N,HW,C] to them."""

    layer: Any

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        self.to_image = TokensToImage(layer.cross_attn_token_to_image)
        self.to_tokens = ImageToTokens(layer.cross_attn_image_to_token)

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor, points: torch.Tensor, position: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        layer, own = self.layer, self.layer.self_attn
        if layer.skip_first_layer_pe:
            queries = _attend(own, own.q_proj(queries), own.k_proj(queries), own.v_proj(queries))
        else:
            named = queries + points
            queries = queries + _attend(own, own.q_proj(named), own.k_proj(named), own.v_proj(queries))
        queries = layer.layer_norm1(queries)
        placed = keys + position
        queries = layer.layer_norm2(queries + self.to_image(queries + points, placed, keys))
        queries = layer.layer_norm3(queries + layer.mlp(queries))
        return queries, layer.layer_norm4(keys + self.to_tokens(placed, queries + points, queries))


def _attend(attention: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention over projected tensors [N,T,heads·head_dim]."""
    query, key, value = (_heads(attention, part) for part in (query, key, value))
    weights = torch.softmax((query * attention.scaling) @ key.transpose(2, 3), dim=-1)
    return attention.o_proj((weights @ value).transpose(1, 2).flatten(2))


def _heads(attention: Any, projected: torch.Tensor) -> torch.Tensor:
    """[N,T,heads·head_dim] → [N,heads,T,head_dim]."""
    return projected.unflatten(-1, (attention.num_attention_heads, attention.head_dim)).transpose(1, 2)


def _rows_of_heads(projection: Any, heads: int) -> torch.Tensor:
    """The weights of a projection C → heads·head_dim as [heads,head_dim,C]."""
    return projection.weight.unflatten(0, (heads, -1))


def _columns_of_heads(projection: Any, heads: int) -> torch.Tensor:
    """The weights of a projection heads·head_dim → C as [heads,head_dim,C]."""
    return projection.weight.unflatten(1, (heads, -1)).permute(1, 2, 0)
