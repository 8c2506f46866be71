"""Upsampled masks are torch's, but for isolated pixels whose logit is zero within rounding."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from florence2_sam2.postprocess import upsample_mask

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

SIZES = [
    (1280, 853),
    (4000, 3000),
    (640, 480),
    (256, 256),
    (100, 77),
    (33, 40),
    (1, 1),
    (1, 4000),
    (4000, 1),
    (255, 257),
]


def torch_logits(logits: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    tensor = torch.from_numpy(logits)[None, None]
    full = torch.nn.functional.interpolate(tensor, size=(height, width), mode="bilinear", align_corners=False)
    result: NDArray[np.float32] = full[0, 0].numpy()
    return result


def smooth(seed: int, size: int) -> NDArray[np.float32]:
    """Logits like SAM2's: a blob with a soft border, |logit| up to about 20."""
    generator = np.random.default_rng(seed)
    yy, xx = np.mgrid[:size, :size]
    x, y, radius = generator.uniform(0, size, 3)
    waves = np.sin(xx / generator.uniform(2, 9)) + np.sin(yy / generator.uniform(2, 9))
    return np.clip((radius / 2 - np.hypot(xx - x, yy - y)) * 0.4 + 2 * waves, -20, 20).astype(np.float32)


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("kind", ["smooth", "noise"])
def test_masks_are_torchs(width: int, height: int, size: int, kind: str) -> None:
    for seed in range(2 if width * height > 10**6 else 6):
        if kind == "smooth":
            logits = smooth(seed, size)
        else:
            logits = (np.random.default_rng(seed).normal(size=(size, size)) * 5).astype(np.float32)
        theirs = torch_logits(logits, width, height)
        differs = upsample_mask(logits, width, height).full() != (theirs > 0)
        assert np.abs(theirs[differs]).max(initial=0) < 1e-5
        assert differs.sum() <= 1 + 1e-5 * width * height
