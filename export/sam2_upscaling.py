"""The end of SAM2's mask decoder, from what it made of the picture to logits, with channels last.

transformers doubles the resolution twice by transposed convolutions whose stride is their kernel: no two outputs share
a pixel, so each is a product of matrices, and what remains is to say where in the picture its results lie. Nothing
before the mask asks for that: layer norm, activation and the product with a mask's kernel are a pixel's own. So pixels
stay in the order in which the products give them (`blocked`) until only the one mask of each box is left.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Doubling(nn.Module):
    """A transposed convolution of kernel and stride 2, plus a map of its results' size.

    Pixels [N,P,C] and map [1,4·P,D] → [N,4·P,D], each pixel's 2×2 in a row. The bias goes to the map, which is one for
    all N.
    """

    def __init__(self, convolution: nn.ConvTranspose2d) -> None:
        super().__init__()
        if (convolution.kernel_size, convolution.stride) != ((2, 2), (2, 2)):
            raise ValueError(f"not a doubling: {convolution}")
        channels, outputs = convolution.weight.shape[:2]
        weight = convolution.weight.detach().permute(0, 2, 3, 1).reshape(channels, 4 * outputs)
        self.weight = nn.Buffer(weight.contiguous())
        assert convolution.bias is not None
        self.bias = nn.Buffer(convolution.bias.detach())
        self.outputs = outputs

    def forward(self, pixels: torch.Tensor, finer: torch.Tensor) -> torch.Tensor:
        return (pixels @ self.weight).unflatten(2, (4, self.outputs)).flatten(1, 2) + (finer + self.bias)


class Upscaling(nn.Module):
    """What a mask decoder does after its transformer.

    keys [N,H·W,C], kernels [N,M,C/8], the finer maps [1,C/4,2H,2W] and [1,C/8,4H,4W] → logits [N,M,16·H·W], whose
    pixels are in the order of `blocked`.
    """

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.first, self.second = Doubling(decoder.upscale_conv1), Doubling(decoder.upscale_conv2)
        norm = decoder.upscale_layer_norm
        self.norm = nn.LayerNorm(norm.normalized_shape, norm.eps)
        self.norm.load_state_dict(norm.state_dict())
        self.activation = decoder.activation

    def forward(
        self, keys: torch.Tensor, kernels: torch.Tensor, fine: torch.Tensor, middle: torch.Tensor
    ) -> torch.Tensor:
        pixels = self.activation(self.norm(self.first(keys, blocked(middle, 1))))
        pixels = self.activation(self.second(pixels, blocked(fine, 2)))
        return kernels @ pixels.transpose(1, 2)


def blocked(maps: torch.Tensor, doublings: int) -> torch.Tensor:
    """Maps [N,C,H·2^d,W·2^d] → [N,H·W·4^d,C], pixels in the order of d `Doubling`s of H×W pixels."""
    channels, tall, wide = maps.shape[1:]
    twos = [2] * doublings
    split = maps.reshape(-1, channels, tall >> doublings, *twos, wide >> doublings, *twos)
    rows, columns = 2, 3 + doublings
    order = [rows, columns]
    for step in range(1, doublings + 1):
        order += [rows + step, columns + step]
    return split.permute(0, *order, 1).flatten(1, -2)


def unblocked(pixels: torch.Tensor, height: int, width: int, doublings: int) -> torch.Tensor:
    """Pixels [N,H·W·4^d] as `blocked` orders them → [N,H·2^d,W·2^d]."""
    split = pixels.reshape(-1, height, width, *[2] * (2 * doublings))
    order = [1, *range(3, 3 + 2 * doublings, 2), 2, *range(4, 4 + 2 * doublings, 2)]
    return split.permute(0, *order).reshape(-1, height << doublings, width << doublings)
