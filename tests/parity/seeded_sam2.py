"""Weights and inputs that every machine makes alike from a seed, under the names of Meta's SAM2.

Everything comes from PCG64's raw bits, which numpy promises never to change (its distributions may), by sums and
products of float32. So the oracle's values, made once beside Meta's code, and a test that has only the names and
shapes speak of the same model.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Layout = dict[str, tuple[int, ...]]

DATA = Path(__file__).resolve().parent.parent / "data" / "sam2_original"
VERSIONS = ("sam2", "sam2.1")
SIZES = ("tiny", "small", "base_plus", "large")
PICTURE = 1024  # side of the square picture that the model takes, pixels

# Corners (x, y, x, y) in the picture's frame: one with fractions, one tall, one flat.
BOXES = np.array(
    [[100.5, 200.25, 600.0, 700.75], [30.0, 40.0, 350.0, 900.0], [512.0, 512.0, 1000.0, 640.0]], np.float32
)
POINTS = np.array([[300.0, 410.5], [640.25, 200.0]], np.float32)  # (x, y)
POINT_LABELS = np.array([1, 0], np.int32)  # inside, outside

# How much a parameter's values spread where the rule of `_spread` would leave what it feeds too weak to show: values
# found by looking at the oracle's masks and scores, so that these differ between boxes and between mask tokens.
_GAINS = {
    "sam_mask_decoder.output_hypernetworks_mlps": 1.1,
    "sam_mask_decoder.iou_prediction_head": 1.5,
}


def seed(version: str, size: str) -> int:
    """Every configuration has a seed of its own: SAM2 and SAM2.1 of one size would be the same model otherwise."""
    return zlib.crc32(f"{version} {size}".encode())


def oracle(version: str, size: str) -> Path:
    """The file of what Meta's code gave for this configuration."""
    return DATA / f"{version}_{size}.npz"


def layout(version: str, size: str) -> Layout:
    """Names and shapes of the state dict that Meta's model of this version and size has."""
    parts = json.loads((DATA / "layouts.json").read_text(encoding="utf-8"))
    names = {**parts["every file"], **parts[size], **(parts["sam2.1"] if version == "sam2.1" else {})}
    return {name: tuple(shape) for name, shape in names.items()}


def uniform(name: str, shape: tuple[int, ...], seed: int) -> Array:
    """Values of mean 0 and standard deviation 1, the same for the same name, shape and seed."""
    count = math.prod(shape)
    bits = np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(name.encode())])).random_raw(
        -(-count // 2)
    )
    whole = (bits.astype("<u8").view("<u4")[:count] >> np.uint32(8)).astype(np.float32)  # exact: 24 bits
    values: Array = (whole * np.float32(2**-23) - np.float32(1)) * np.float32(math.sqrt(3))
    return values.reshape(shape)


def state(names: Layout, seed: int) -> dict[str, Array]:
    """A whole state dict. Every tensor differs from every other, and none is constant: two swapped ones show."""
    return {name: _parameter(name, shape, seed) for name, shape in names.items()}


def fingerprint(tensors: dict[str, Array]) -> str:
    """SHA-256 over names, shapes and first values: whether two machines made the same weights."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].shape} ".encode())
        digest.update(np.ascontiguousarray(tensors[name].ravel()[:16], "<f4").tobytes())
    return digest.hexdigest()


def pixels(seed: int) -> Array:
    """A normalised picture [3,1024,1024]: squares of several sizes, and noise."""
    picture = np.float32(0.3) * uniform("noise", (3, PICTURE, PICTURE), seed)
    for side, weight in ((256, 0.7), (64, 0.6), (16, 0.4)):
        cells = uniform(f"squares of {side}", (3, PICTURE // side, PICTURE // side), seed)
        picture += np.float32(weight) * cells.repeat(side, axis=1).repeat(side, axis=2)
    return picture


def mask_prompt(seed: int) -> Array:
    """Logits [1,256,256] of a mask given as a prompt."""
    cells = uniform("mask prompt", (1, 8, 8), seed)
    return np.float32(4) * cells.repeat(32, axis=1).repeat(32, axis=2)


def photograph(seed: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """A picture [height,width,3] with edges and texture, for the way through resizing."""
    light = np.float32(12) * uniform("texture", (height, width, 3), seed)
    for side, weight in ((96, 45), (24, 25)):
        cells = uniform(f"areas of {side}", (-(-height // side), -(-width // side), 3), seed)
        light += np.float32(weight) * cells.repeat(side, axis=0).repeat(side, axis=1)[:height, :width]
    return np.clip(light + 128, 0, 255).astype(np.uint8)


def _parameter(name: str, shape: tuple[int, ...], seed: int) -> Array:
    values = uniform(name, shape, seed)
    if len(shape) == 1:
        # Gains of norms lie around 1, biases around 0; in Meta's files nothing else has one axis.
        if name.endswith("weight"):
            return np.float32(1) + np.float32(0.2) * values
        return np.float32(0.1) * values
    gain = next((gain for part, gain in _GAINS.items() if name.startswith(part)), 1.0)
    return np.float32(gain * _spread(name, shape)) * values


def _spread(name: str, shape: tuple[int, ...]) -> float:
    """Standard deviation that keeps what passes through a layer at its size."""
    if name.startswith("sam_mask_decoder.output_upscaling"):
        return 1 / math.sqrt(shape[0])  # transposed convolution whose kernels do not overlap
    if name.endswith("weight") and shape[0] > 1 and "tokens" not in name:
        return 1 / math.sqrt(math.prod(shape[1:]))
    return 1.0 if "gaussian_matrix" in name else 0.5  # tokens, positions and other learned vectors
