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


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair of boxes xyxy: [N, 4], [M, 4] -> [N, M]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=-1)
    area_a, area_b = (np.prod(np.maximum(c[:, 2:] - c[:, :2], 0), axis=-1) for c in (a, b))
    return np.asarray(common / np.maximum(area_a[:, None] + area_b[None] - common, 1e-9))
