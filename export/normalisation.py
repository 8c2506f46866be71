"""From a resized picture's bytes to what an encoder's weights were trained on, as the first step of its graph.

A picture goes to the encoder as bytes, a quarter of what its normalised values are, through each copy on its way: into
and out of Triton's shared memory, and to a GPU.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from florence2_sam2.server.manifest import ImageSpec


class Normalisation(nn.Module):
    """Pixels UINT8 [B,3,H,W], RGB → (x / 255 - mean) / std of each channel, FP32, as a product and a sum.

    In a float16 graph it stays float32 (`Graph.float32_scopes`): a byte has few digits, and they are all there is.
    """

    def __init__(self, image: ImageSpec) -> None:
        super().__init__()
        mean, std = (
            torch.tensor(row, dtype=torch.float64).view(1, 3, 1, 1) for row in (image.mean, image.std)
        )
        self.scale = nn.Buffer((1 / (255 * std)).float())
        self.shift = nn.Buffer((-mean / std).float())

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.to(torch.float32) * self.scale + self.shift


def normalised(pixels: NDArray[np.uint8], image: ImageSpec) -> NDArray[np.float32]:
    """What transformers' processors make of resized pixels [..., 3, H, W], by the formula as it stands."""
    mean, std = (np.array(row)[:, None, None] for row in (image.mean, image.std))
    return ((pixels / 255 - mean) / std).astype(np.float32)


def pixels_of(values: NDArray[np.floating], image: ImageSpec) -> NDArray[np.uint8]:
    """The pixels whose normalised values are nearest to `values` [..., 3, H, W]."""
    mean, std = (np.array(row)[:, None, None] for row in (image.mean, image.std))
    return np.rint(255 * (values * std + mean)).clip(0, 255).astype(np.uint8)
