"""Pictures to ask about: drawn scenes that nothing was trained on, each another one, as JPEG files."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image

from bench.quality.scenes import ASPECTS, draw

SEED = 8_000_000  # bench/quality's are others
QUALITY = 92


@functools.lru_cache(maxsize=256)
def picture(number: int, width: int, height: int) -> bytes:
    """Scene `number` of those whose shape is nearest, scaled to that size."""
    image = Image.fromarray(draw(_scene(number, width / height), seed=SEED).image)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


@functools.lru_cache(maxsize=256)
def caption_of(number: int) -> str:
    """The true caption of a scene."""
    return draw(number, seed=SEED).caption


def _scene(number: int, aspect: float) -> int:
    """bench/quality draws scenes of several shapes, in turns."""
    nearest = min(range(len(ASPECTS)), key=lambda n: abs(ASPECTS[n][0] / ASPECTS[n][1] - aspect))
    return len(ASPECTS) * number + nearest


def decoded(data: bytes) -> np.ndarray:
    """uint8 [H,W,3]."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def size_of(megapixels: float, aspect: float = 4 / 3) -> tuple[int, int]:
    """Width and height of a picture with that many pixels."""
    height = round((megapixels * 1e6 / aspect) ** 0.5)
    return round(height * aspect), height
