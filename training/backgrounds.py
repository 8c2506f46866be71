"""Backgrounds: what lies behind the things, and the large wooden table under them.

Each background has the words by which a caption names it ("a green meadow").
"""

from collections.abc import Callable

import cv2
import numpy as np

from florence2_sam2.training.rendering import grain, noise_field

Picture = np.ndarray  # float32 [H, W, 3] RGB, 0..255
Painter = Callable[[np.random.Generator, int, int], Picture]


def _tinted(rng: np.random.Generator, rgb: tuple[float, float, float], height: int, width: int) -> Picture:
    picture = np.empty((height, width, 3), np.float32)
    picture[:] = np.array(rgb, np.float32) * rng.uniform(0.88, 1.1) + rng.uniform(-8, 8, 3).astype(np.float32)
    return picture


def _vertical(
    top: tuple[float, float, float], bottom: tuple[float, float, float], height: int, width: int
) -> Picture:
    t = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    column = np.array(top, np.float32) * (1 - t) + np.array(bottom, np.float32) * t
    return np.broadcast_to(column, (height, width, 3)).copy()


def _clouds(rng: np.random.Generator, picture: Picture, strength: float = 60) -> None:
    height, width = picture.shape[:2]
    field = noise_field(rng, height, width, width / rng.uniform(3, 6)) + 0.5 * noise_field(
        rng, height, width, width / 12
    )
    picture += (np.clip(field - 0.3, 0, 1) * strength)[..., None]


def _horizon(rng: np.random.Generator, height: int, low: float = 0.25, high: float = 0.6) -> int:
    return int(height * rng.uniform(low, high))


def _sky_over(rng: np.random.Generator, ground: Picture) -> Picture:
    height, width = ground.shape[:2]
    y = _horizon(rng, height)
    sky = _vertical((150, 190, 226), (206, 222, 232), y, width)
    _clouds(rng, sky, 40)
    ground[:y] = sky
    return ground


def meadow(rng: np.random.Generator, height: int, width: int) -> Picture:
    ground = _vertical((138, 168, 104), (92, 132, 66), height, width)
    blades = cv2.resize(grain(rng, height, max(2, width // 2)), (width, height)) * 7
    ground += (noise_field(rng, height, width, width / 10) * 7 + blades)[..., None]
    return _sky_over(rng, ground)


def beach(rng: np.random.Generator, height: int, width: int) -> Picture:
    picture = _tinted(rng, (216, 194, 150), height, width)
    picture += (noise_field(rng, height, width, width / 14) * 6 + grain(rng, height, width) * 7)[..., None]
    y = _horizon(rng, height, 0.2, 0.45)
    shore = y + (noise_field(rng, 2, width, width / 6)[0] * height * 0.02).astype(int)
    water = np.arange(height)[:, None] < shore[None, :]
    picture[water] = np.array((108, 166, 186), np.float32)
    picture[: y // 2] = _vertical((164, 200, 228), (212, 226, 232), y // 2, width)
    return picture


def sea(rng: np.random.Generator, height: int, width: int) -> Picture:
    picture = _vertical((84, 140, 168), (36, 88, 124), height, width)
    waves = cv2.resize(noise_field(rng, height, max(8, width // 4), 5), (width, height))
    picture += (waves * 9)[..., None]
    return _sky_over(rng, picture) if rng.random() < 0.7 else picture


def snow(rng: np.random.Generator, height: int, width: int) -> Picture:
    picture = _vertical((206, 214, 224), (226, 231, 238), height, width)
    picture += (noise_field(rng, height, width, width / 5) * 6 + grain(rng, height, width) * 2)[..., None]
    y = _horizon(rng, height, 0.15, 0.45)
    picture[:y] = _vertical((150, 164, 184), (192, 202, 214), y, width)
    return picture


def bricks(rng: np.random.Generator, height: int, width: int) -> Picture:
    tone = (164, 104, 84) if rng.random() < 0.6 else (176, 160, 140)
    rows = rng.uniform(7, 13)
    brick_h, brick_w = height / rows, height / rows * rng.uniform(1.8, 2.4)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    row = np.floor(y / brick_h)
    u, v = (x / brick_w + 0.5 * (row % 2)) % 1, (y / brick_h) % 1
    column = np.floor(x / brick_w + 0.5 * (row % 2))
    picture = _tinted(rng, tone, height, width)
    picture *= (0.94 + 0.12 * ((np.sin(row * 12.9 + column * 78.2) * 43758.5) % 1))[..., None]
    picture[(u < 0.05) | (v < 0.1)] = np.array((188, 180, 168), np.float32) * 0.95
    return picture + (grain(rng, height, width) * 5)[..., None]


def tiles(rng: np.random.Generator, height: int, width: int) -> Picture:
    count = rng.uniform(4, 8)
    y, x = np.mgrid[:height, :width].astype(np.float32) * (count / height)
    dark = (np.floor(x) + np.floor(y)) % 2 > 0
    first, second = [
        ((206, 204, 196), (162, 166, 168)),
        ((198, 214, 206), (140, 168, 160)),
        ((220, 206, 180), (188, 166, 136)),
    ][int(rng.integers(3))]
    picture = np.where(dark[..., None], np.array(first, np.float32), np.array(second, np.float32))
    return picture * np.float32(rng.uniform(0.9, 1.05))


def road(rng: np.random.Generator, height: int, width: int) -> Picture:
    picture = _tinted(rng, (104, 106, 110), height, width)
    picture += (grain(rng, height, width) * 7 + noise_field(rng, height, width, width / 5) * 5)[..., None]
    y = height * rng.uniform(0.6, 0.9)
    x = np.arange(width)
    dash = (x * 5 / width + rng.random()) % 1 < 0.55
    thick = max(1, height // 40)
    picture[int(y) : int(y) + thick, dash] = (214, 210, 196)
    return _sky_over(rng, picture)


def wall(rng: np.random.Generator, height: int, width: int) -> Picture:
    tones = (
        (196, 186, 168),
        (150, 170, 182),
        (186, 160, 152),
        (158, 172, 148),
        (172, 164, 184),
        (120, 128, 136),
    )
    picture = _tinted(rng, tones[int(rng.integers(len(tones)))], height, width)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.ogrid[:height, :width]
    picture *= (
        1 + ((x / width - 0.5) * np.cos(angle) + (y / height - 0.5) * np.sin(angle)) * rng.uniform(0.1, 0.5)
    ).astype(np.float32)[..., None]
    return picture + (noise_field(rng, height, width, width / 6) * 3)[..., None]


def curtain(rng: np.random.Generator, height: int, width: int) -> Picture:
    tones = ((150, 120, 124), (112, 132, 150), (188, 176, 150), (124, 140, 120))
    picture = _tinted(rng, tones[int(rng.integers(len(tones)))], height, width)
    x = np.linspace(0, 1, width, dtype=np.float32)
    folds = np.sin(2 * np.pi * (x * rng.uniform(5, 10) + 0.3 * np.sin(x * rng.uniform(4, 12)))) * rng.uniform(
        0.1, 0.2
    )
    return picture * (1 + folds)[None, :, None].astype(np.float32)


def night(rng: np.random.Generator, height: int, width: int) -> Picture:
    picture = _vertical((26, 32, 60), (70, 74, 108), height, width)
    for _ in range(int(rng.integers(10, 30))):
        picture[int(rng.integers(height)), int(rng.integers(width))] = 225
    return picture


BACKGROUNDS: dict[str, Painter] = {
    "a green meadow": meadow,
    "a sandy beach": beach,
    "the open sea": sea,
    "a snowy field": snow,
    "a brick wall": bricks,
    "a tiled floor": tiles,
    "a gray road": road,
    "a plain wall": wall,
    "a long curtain": curtain,
    "the night sky": night,
}


def wooden_table(rng: np.random.Generator, picture: Picture) -> np.ndarray:
    """Paint a large table over the lower part of the picture, in place.

    Returns its mask, bool [H, W]. Half of the tables reach both edges, the others are narrower seen in
    perspective. The table covers between about 0.35 and 0.8 of the picture's height.
    """
    height, width = picture.shape[:2]
    top = height * rng.uniform(0.2, 0.6)
    left, right = 0.0, float(width)
    slope = 0.0
    if rng.random() < 0.5:
        left, right = width * rng.uniform(0.03, 0.2), width * rng.uniform(0.8, 0.97)
        slope = width * rng.uniform(0.1, 0.25)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    depth = (y - top) / (height - top)
    mask = (y >= top) & (x >= left - slope * depth) & (x <= right + slope * depth)
    base = np.array(((156, 104, 60), (128, 82, 46), (182, 132, 84))[int(rng.integers(3))], np.float32)
    period = rng.uniform(0.015, 0.035)
    bent = y / height + 0.02 * noise_field(rng, height, width, width / 4)
    fibre = (
        np.sin(bent * (2 * np.pi / period)) * 0.05
        + noise_field(rng, height, max(8, width), height / 30) * 0.03
    )
    planks = ((depth * rng.integers(2, 6)) % 1 < 0.025) * -0.25
    wood = base * (0.9 + 0.2 * depth + fibre + planks)[..., None]
    picture[mask] = wood[mask]
    edge = mask & (y < top + max(1.0, height / 90))
    picture[edge] = np.minimum(picture[edge] * 1.18, 255)
    return mask
