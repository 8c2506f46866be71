"""Painting: outlines to pixels, with texture, shading, highlights and shadows.

Pictures are float32 [H, W, 3] RGB in 0..255 until the very end. Masks are uint8 [H, W], 0..255, antialiased.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from florence2_sam2.training.geometry import Part
from florence2_sam2.training.outlines import OUTLINES
from florence2_sam2.training.vocabulary import COLOURS, KINDS

MATERIALS: dict[str, tuple[int, int, int]] = {
    "wood": (126, 84, 48),
    "metal": (150, 152, 158),
    "leaf": (70, 130, 52),
    "glass": (158, 200, 222),
    "ink": (34, 32, 36),
    "cream": (236, 224, 196),
    "white": (244, 244, 242),
    "beak": (236, 158, 40),
    "yolk": (246, 206, 70),
    "coffee": (84, 52, 34),
    "roof": (142, 70, 52),
}

NOTHING = np.empty((0, 3), np.float32)  # no colours
_FIXED_NOISE = np.random.default_rng(0).normal(0, 1, (768, 768)).astype(np.float32)
VISIBLY_APART = 60.0  # Euclidean, of colours in 0..255
_OUTER = 0.25  # a part that adds at least this much of itself to the outline belongs to it
_SHIFT = 4  # fractional bits of the coordinates given to OpenCV


@dataclass
class Sprite:
    """One drawn thing: `rgb` float32 [h, w, 3] and `alpha` uint8 [h, w], to be pasted at (left, top)."""

    rgb: np.ndarray
    alpha: np.ndarray
    left: int
    top: int


def noise_field(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """Smooth noise, float32 [height, width], about unit variance; `cell` is the size of a blob in pixels."""
    rows, columns = max(2, round(height / cell) + 1), max(2, round(width / cell) + 1)
    coarse = rng.normal(0, 1, (rows, columns)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def grain(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Pixel noise, float32 [height, width]: a random window of one fixed field (drawing it anew is slow)."""
    size = _FIXED_NOISE.shape[0]
    if height > size or width > size:
        return rng.standard_normal((height, width), dtype=np.float32)
    y, x = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
    return _FIXED_NOISE[y : y + height, x : x + width]


def paint_of(tone: str, base: np.ndarray) -> np.ndarray:
    """The colour, float32 [3], of a part of a thing whose own colour is `base`."""
    if tone == "main":
        return base
    if tone == "dark":
        return base * 0.72 if base.sum() > 200 else base + 26
    if tone == "light":
        return base * 0.62 + 96
    return np.array(MATERIALS[tone], np.float32)


def apart(colour: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """`colour`, or where it would vanish before one of the colours `behind` [N, 3], a darker or lighter one of its hue.

    The handle of a hammer on a table of the same wood has no outline that anyone could find.
    """

    def distance(candidate: np.ndarray) -> float:
        return float(np.sqrt(((behind - candidate) ** 2).sum(-1)).min(initial=np.inf))

    if distance(colour) >= VISIBLY_APART:
        return colour
    return max((colour, colour * 0.45, colour * 0.5 + 127), key=distance)


def posed(rng: np.random.Generator, parts: list[Part], tilt: float, stretch: float = 1.15) -> list[Part]:
    """The parts bent, mirrored, stretched and turned by up to `tilt` degrees; not yet scaled."""
    bend, phase = rng.uniform(-0.06, 0.06, (2, 2)), rng.uniform(0, 2 * np.pi, 2)
    frequency = rng.uniform(1.5, 3.5, 2)
    aspect = np.exp(rng.uniform(-np.log(stretch), np.log(stretch)))
    angle = np.radians(rng.uniform(-tilt, tilt))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    scale = np.array([aspect * (-1 if rng.random() < 0.5 else 1), 1 / aspect])

    def move(points: np.ndarray) -> np.ndarray:
        waves = np.sin(points * frequency + phase)
        return ((points + waves[:, ::-1] * bend[0] + waves * bend[1] * 0.5) * scale) @ turn

    return [Part(move(p.points), p.tone, p.hole) for p in parts]


def fitted(parts: list[Part], size: float) -> tuple[list[Part], float, float]:
    """The parts scaled and moved into a box at the origin whose longer side is `size` pixels; its width, height."""
    everything = np.concatenate([p.points for p in parts])
    low, high = everything.min(0), everything.max(0)
    factor = size / float((high - low).max())
    width, height = (high - low) * factor
    return [Part((p.points - low) * factor, p.tone, p.hole) for p in parts], float(width), float(height)


def shaded(
    rng: np.random.Generator, rgb: np.ndarray, alpha: np.ndarray, light: np.ndarray, size: float
) -> np.ndarray:
    """`rgb` lit from direction `light` (unit vector, x and y) as if the mask were a cushion."""
    k = max(3, int(size * rng.uniform(0.2, 0.45)) | 1)
    height = cv2.blur(cv2.blur(alpha, (k, k)), (k, k)).astype(np.float32) / 255
    slope_x, slope_y = cv2.Sobel(height, -1, 1, 0, ksize=3), cv2.Sobel(height, -1, 0, 1, ksize=3)
    lit = -(slope_x * light[0] + slope_y * light[1]) * k * rng.uniform(0.08, 0.22)
    lit = np.clip(lit, -0.45, 0.4)
    return rgb * (1 + np.minimum(lit, 0))[..., None] + (np.maximum(lit, 0) * 110)[..., None]


def textured(rng: np.random.Generator, rgb: np.ndarray, size: float) -> np.ndarray:
    """`rgb` with one of several surface textures; strong enough to see, weak enough to keep the colour's name."""
    h, w = rgb.shape[:2]
    choice = rng.random()
    if choice < 0.25:  # blotches
        field = noise_field(rng, h, w, max(2.0, size * rng.uniform(0.08, 0.25))) * 0.09
    elif choice < 0.45:  # fine speckle
        field = grain(rng, h, w) * 0.06
    elif choice < 0.62:  # stripes
        angle, period = rng.uniform(0, np.pi), max(4.0, size * rng.uniform(0.08, 0.2))
        y, x = np.ogrid[:h, :w]
        field = (np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period)) * 0.11).astype(
            np.float32
        )
    elif choice < 0.8:  # a gradient across
        angle = rng.uniform(0, 2 * np.pi)
        y, x = np.ogrid[:h, :w]
        field = (((x - w / 2) * np.cos(angle) + (y - h / 2) * np.sin(angle)) / size * 0.35).astype(np.float32)
    else:
        return rgb
    return rgb * (1 + field)[..., None]


def draw_sprite(
    rng: np.random.Generator,
    kind: str,
    colour: str,
    size: float,
    light: np.ndarray,
    form: int | None = None,
    behind: np.ndarray = NOTHING,
) -> Sprite:
    """One thing of the given kind and colour, its longer side about `size` pixels, at (0, 0).

    Parts of its outline in other colours than its own stay `apart` from the colours `behind`, float32 [N, 3].
    """
    forms = OUTLINES[kind]
    form = int(rng.integers(forms.count)) if form is None else form
    parts, width, height = fitted(posed(rng, forms.draw(rng, form), KINDS[kind].tilt), size)
    base = np.array(COLOURS[colour], np.float32) * rng.uniform(0.92, 1.06, 3) + rng.uniform(-6, 6)
    base = np.clip(base, 8, 250).astype(np.float32)
    h, w = int(np.ceil(height)) + 3, int(np.ceil(width)) + 3
    rgb: np.ndarray = np.empty((h, w, 3), np.float32)
    alpha: np.ndarray = np.zeros((h, w), np.uint8)
    rgb[:] = base
    layer = np.zeros((h, w), np.uint8)
    for part in parts:
        layer[:] = 0
        points = np.round((part.points + 1.0) * (1 << _SHIFT)).astype(np.int32)
        cv2.fillPoly(layer, [points], (255,), cv2.LINE_AA, _SHIFT)
        if part.hole:
            alpha = cv2.min(alpha, 255 - layer)
            continue
        outer = cv2.countNonZero(cv2.subtract(layer, alpha)) > _OUTER * cv2.countNonZero(layer)
        alpha = cv2.max(alpha, layer)
        if part.tone != "main" or part is not parts[0]:
            a = (layer.astype(np.float32) / 255)[..., None]
            paint = paint_of(part.tone, base)
            if outer and part.tone != "main":
                paint = apart(paint, behind)
            rgb += (paint - rgb) * a
    rgb = textured(rng, rgb, size)
    rgb = shaded(rng, rgb, alpha, light, size)
    return Sprite(rgb, alpha, 0, 0)


def window(sprite: Sprite, height: int, width: int) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    """Where the sprite lies in a picture of the given size, and which part of it that is; None if outside."""
    h, w = sprite.alpha.shape
    y0, x0 = max(0, sprite.top), max(0, sprite.left)
    y1, x1 = min(height, sprite.top + h), min(width, sprite.left + w)
    if y1 <= y0 or x1 <= x0:
        return None
    inner = (slice(y0 - sprite.top, y1 - sprite.top), slice(x0 - sprite.left, x1 - sprite.left))
    return (slice(y0, y1), slice(x0, x1)), inner


def cast_shadow(
    picture: np.ndarray, sprite: Sprite, offset: tuple[int, int], blur: int, strength: float
) -> None:
    """Darken the picture under the sprite's outline, moved by `offset` (x, y) pixels and blurred. In place."""
    pad = blur * 2
    soft = cv2.blur(
        cv2.copyMakeBorder(sprite.alpha, pad, pad, pad, pad, cv2.BORDER_CONSTANT), (2 * blur + 1,) * 2
    )
    shadow = Sprite(np.empty(0), soft, sprite.left + offset[0] - pad, sprite.top + offset[1] - pad)
    place = window(shadow, *picture.shape[:2])
    if place:
        outer, inner = place
        picture[outer] *= 1 - (soft[inner].astype(np.float32) * (strength / 255))[..., None]


def paste(picture: np.ndarray, sprite: Sprite) -> None:
    """Blend the sprite into the picture. In place."""
    place = window(sprite, *picture.shape[:2])
    if place:
        outer, inner = place
        a = (sprite.alpha[inner].astype(np.float32) / 255)[..., None]
        picture[outer] += (sprite.rgb[inner] - picture[outer]) * a
