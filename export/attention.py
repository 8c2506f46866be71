"""Attention as one operator of onnxruntime in the encoders' graphs, its projections apart.

What transformers computes as two products, a scaling and a softmax keeps all scores of a layer in memory several times
over. onnxruntime's `MultiHeadAttention` (domain com.microsoft, float32 on a CPU) goes over them in blocks that stay in
the processor's cache. It takes queries, keys and values as the projections give them, which saves their transposes too.
The vision towers compute the three as one product, whose result would have to be copied apart: here they are three.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.onnx.symbolic_helper import _optional_input_placeholder_tensor as absent
from transformers import AttentionInterface
from transformers.models.florence2.modeling_florence2 import (
    Florence2VisionChannelAttention,
    eager_attention_forward,
)

NAME = "onnxruntime"  # in transformers' table of attention implementations


class _Attention(torch.autograd.Function):
    """softmax(scale · query · keyᵀ + bias) · value for each head.

    `query` [B,N,heads,head_dim], `key` and `value` [B,M,heads,head_dim] → [B,N,heads,head_dim]. `bias` is
    [B or 1, heads or 1, N, M] and may be left out. The
    exporter does not know how many `heads` the shapes say.
    """

    @staticmethod
    def forward(
        ctx: Any,
        heads: int,
        scale: float,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *bias: torch.Tensor,
    ) -> torch.Tensor:
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        scores = sum(bias, query @ key.transpose(2, 3) * scale)
        return (torch.softmax(scores, dim=-1) @ value).transpose(1, 2).contiguous()

    @staticmethod
    def symbolic(g: Any, heads: int, scale: float, query: Any, key: Any, value: Any, *bias: Any) -> Any:
        def reshaped(tensor: Any, *last: int) -> Any:  # 0 is the size that was there, -1 what is left
            return g.op("Reshape", tensor, g.op("Constant", value_t=torch.tensor([0, 0, *last])))

        flat = [reshaped(part, -1) for part in (query, key, value)]
        optional = (
            [absent(g), absent(g), *bias] if bias else []
        )  # absent: the projections' bias, a padding mask
        attended = g.op(
            "com.microsoft::MultiHeadAttention", *flat, *optional, num_heads_i=heads, scale_f=scale
        )
        return reshaped(attended, heads, -1).setType(query.type())


def _forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: [B,heads,N,head_dim] and twice [B,heads,M,head_dim] → [B,N,heads,head_dim]."""
    if isinstance(module, Florence2VisionChannelAttention):
        # Its heads are as long as the picture has positions, its scores are few: two plain products do it best.
        attended, _ = eager_attention_forward(module, query, key, value, attention_mask, scaling)
        return attended, None
    # The operator repeats a bias for batch and heads only.
    bias = [] if attention_mask is None else [attention_mask.expand(-1, -1, query.shape[2], -1)]
    parts = (part.transpose(1, 2) for part in (query, key, value))
    return _Attention.apply(int(query.shape[1]), scaling, *parts, *bias), None


AttentionInterface.register(NAME, _forward)


class _Projected:
    """Queries, keys and values, in place of one tensor in which the axis `axis` of size 3 tells them apart.

    transformers' code does three things with such a tensor: it gives it that axis (`reshape`), may reorder its axes
    (`permute`), and takes it apart (`unbind`).
    """

    def __init__(self, parts: list[torch.Tensor], axis: int | None = None) -> None:
        self.parts, self.axis = parts, axis

    def reshape(self, *shape: int) -> _Projected:
        """`shape` has the axis of size 3 third, where both towers have it: [B, N, 3, heads, head_dim]."""
        axis = 2
        if shape[axis] != 3:
            raise ValueError(f"not projections of attention: {shape}")
        rest = (*shape[:axis], *shape[axis + 1 :])
        return _Projected([part.reshape(rest) for part in self.parts], axis)

    def permute(self, *order: int) -> _Projected:
        kept = [a for a in order if a != self.axis]
        kept = [a - (a > (self.axis or 0)) for a in kept]
        return _Projected([part.permute(kept) for part in self.parts], order.index(self.axis))

    def unbind(self, axis: int = 0) -> tuple[torch.Tensor, ...]:
        if axis != self.axis:
            raise ValueError(f"axis {axis} does not tell projections apart, {self.axis} does")
        return tuple(self.parts)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, arguments: Any, named: Any = None) -> Any:
        """`torch.unbind(projected, axis)`."""
        if function is torch.unbind:
            return arguments[0].unbind(*arguments[1:], **(named or {}))
        return NotImplemented


class _Apart(nn.Module):
    """A linear layer [B, …, C] → 3·D as three, whose results are `_Projected`."""

    def __init__(self, together: nn.Linear) -> None:
        super().__init__()
        self.weights = nn.ParameterList(part.clone() for part in together.weight.detach().chunk(3))
        biases = together.bias.detach().chunk(3) if together.bias is not None else ()
        self.biases = nn.ParameterList(part.clone() for part in biases)

    def forward(self, hidden: torch.Tensor) -> _Projected:
        biases = [*self.biases] or [None] * 3
        return _Projected(
            [F.linear(hidden, weight, bias) for weight, bias in zip(self.weights, biases, strict=True)]
        )


@contextmanager
def fused(module: nn.Module) -> Iterator[None]:
    """While it lasts, transformers' attention layers in `module` are exported as one operator each.

    So they are with the projections of vision towers, `qkv`, apart.
    """
    configs: dict[int, Any] = {
        id(part.config): part.config for part in module.modules() if hasattr(part, "config")
    }
    before = [(config, config._attn_implementation) for config in configs.values()]
    for config in configs.values():
        config._attn_implementation = NAME
    # Any: to torch's types an attribute may be a tensor as well.
    together: list[tuple[Any, nn.Linear]] = [
        (part, qkv) for part in module.modules() if isinstance(qkv := getattr(part, "qkv", None), nn.Linear)
    ]
    for part, qkv in together:
        part.qkv = _Apart(qkv)
    try:
        yield
    finally:
        for part, qkv in together:
            part.qkv = qkv
        for config, implementation in before:
            config._attn_implementation = implementation
