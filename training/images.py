"""Pictures to network input: the normalisation both models share."""

from collections.abc import Sequence

import numpy as np
import torch

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def to_pixels(images: Sequence[np.ndarray]) -> torch.Tensor:
    """uint8 [H, W, 3] RGB pictures of one size -> float32 [B, 3, H, W], ImageNet mean and deviation."""
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    return (batch / 255 - MEAN) / STD
