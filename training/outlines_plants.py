"""Outlines of fruit, plants and stones: three forms each, loosened by random numbers."""

import numpy as np

from florence2_sam2.training.geometry import Outline, Part, ellipse, line, polygon, rotated, smooth, stroke


def apple(rng: np.random.Generator, form: int) -> list[Part]:
    wide, low = [(0.86, 0.82), (0.74, 0.9), (0.95, 0.72)][form]
    dip = rng.uniform(0.1, 0.2)
    body = smooth(
        (0, -0.55 + dip),
        (0.4 * wide, -0.62),
        (wide, -0.25),
        (0.85 * wide, 0.35),
        (0.4 * wide, low),
        (0, low - 0.1),
        (-0.4 * wide, low),
        (-0.85 * wide, 0.35),
        (-wide, -0.25),
        (-0.4 * wide, -0.62),
    )
    lean = rng.uniform(-0.15, 0.2)
    stem = stroke(smooth((0, -0.4), (lean / 2, -0.7), (lean, -0.98), closed=False), 0.1)
    leaf = rotated(ellipse(0.3, -0.82, 0.26, 0.11), rng.uniform(-10, 35), (0.05, -0.75))
    return [Part(body), Part(stem, "wood")] + ([Part(leaf, "leaf")] if form != 1 else [])


def pear(rng: np.random.Generator, form: int) -> list[Part]:
    lean = [0.0, 0.18, -0.05][form]
    waist, hips = [(0.3, 0.66), (0.32, 0.62), (0.26, 0.8)][form]
    body = smooth(
        (lean, -0.8),
        (waist + lean, -0.55),
        (waist + 0.06 + lean / 2, -0.1),
        (hips, 0.45),
        (0.35, 0.93),
        (0, 0.96),
        (-0.35, 0.93),
        (-hips, 0.45),
        (-waist - 0.06 + lean / 2, -0.1),
        (-waist + lean, -0.55),
    )
    stem = stroke(
        smooth((lean, -0.7), (lean + 0.05, -0.95), (lean + rng.uniform(0, 0.2), -1.15), closed=False), 0.1
    )
    leaf = rotated(ellipse(lean + 0.28, -0.95, 0.24, 0.1), rng.uniform(-20, 30), (lean, -0.9))
    return [Part(body), Part(stem, "wood")] + ([Part(leaf, "leaf")] if form == 2 else [])


def banana(rng: np.random.Generator, form: int) -> list[Part]:
    def crescent(bend: float, fat: float) -> np.ndarray:
        return smooth(
            (-1, -0.35),
            (-0.72, 0.05 + bend / 2),
            (0, bend),
            (0.72, 0.05 + bend / 2),
            (0.98, -0.4),
            (1.06, -0.3),
            (0.85, 0.2 + bend / 2 + fat / 3),
            (0, bend + fat),
            (-0.85, 0.2 + bend / 2 + fat / 3),
        )

    tip, end = Part(ellipse(1.0, -0.38, 0.08, 0.1), "wood"), Part(ellipse(-1.0, -0.32, 0.06, 0.07), "wood")
    if form == 2:
        fruits = [rotated(crescent(0.2, 0.36), a, (1.0, -0.38)) for a in (-24.0, 2.0)]
        return [Part(fruits[0], "dark"), Part(fruits[1]), Part(ellipse(1.0, -0.4, 0.12, 0.14), "wood")]
    return [Part(crescent([0.15, 0.35][form] + rng.uniform(-0.05, 0.1), [0.5, 0.36][form])), tip, end]


def mushroom(rng: np.random.Generator, form: int) -> list[Part]:
    wide = rng.uniform(0.17, 0.26)
    stem = smooth(
        (-wide, -0.1),
        (-wide * 0.85, 0.5),
        (-wide * 1.4, 0.92),
        (0, 1.0),
        (wide * 1.4, 0.92),
        (wide * 0.85, 0.5),
        (wide, -0.1),
        (0, -0.25),
    )
    cap = [
        smooth(
            (-0.92, 0.08), (-0.75, -0.55), (0, -0.92), (0.75, -0.55), (0.92, 0.08), (0.4, 0.02), (-0.4, 0.02)
        ),
        smooth((-1.05, 0.0), (-0.6, -0.38), (0, -0.5), (0.6, -0.38), (1.05, 0.0), (0.4, 0.06), (-0.4, 0.06)),
        smooth(
            (-0.7, 0.12), (-0.42, -0.35), (0, -1.05), (0.42, -0.35), (0.7, 0.12), (0.3, 0.08), (-0.3, 0.08)
        ),
    ][form]
    gills = ellipse(0, 0.03, [0.7, 0.8, 0.5][form], 0.09)
    parts = [Part(stem, "cream"), Part(cap), Part(gills, "dark")]
    if form == 0:
        parts += [
            Part(ellipse(x + rng.uniform(-0.05, 0.05), y, r, r * 0.85), "cream")
            for x, y, r in ((-0.42, -0.3, 0.13), (0.1, -0.58, 0.15), (0.5, -0.22, 0.11), (-0.05, -0.2, 0.09))
        ]
    return parts


def rock(rng: np.random.Generator, form: int) -> list[Part]:
    count = int(rng.integers(7, 11))
    angle = np.sort((np.arange(count) + rng.uniform(-0.3, 0.3, count)) * 2 * np.pi / count)
    flat = [0.72, 0.8, 0.45][form]
    corners = np.c_[np.cos(angle), flat * np.sin(angle)] * rng.uniform(0.82, 1.05, (count, 1))
    corners[:, 1] = np.minimum(corners[:, 1], flat * 0.62)  # it lies on something
    knots = [(float(x), float(y)) for x, y in corners]
    body = smooth(*knots) if form == 1 else polygon(*knots)
    crack = np.array([[-0.3, -0.25 * flat], [0.05, 0.1 * flat], [0.3, 0.0], [0.45, 0.35 * flat]])
    facet = polygon(knots[0], knots[1], (0.15, 0.0), (0.35, -0.2 * flat))
    return [Part(body), Part(facet, "dark" if form else "light"), Part(stroke(crack, 0.05), "dark")]


def tree(rng: np.random.Generator, form: int) -> list[Part]:
    trunk = Part(polygon((-0.1, 1.0), (-0.07, 0.1), (0.07, 0.1), (0.1, 1.0)), "wood")
    if form == 0:  # a round crown of leafy lobes
        lobes = int(rng.integers(7, 10))
        angle = np.arange(lobes * 2) * np.pi / lobes
        radius = np.where(np.arange(lobes * 2) % 2 == 0, 0.72, 0.58) * rng.uniform(0.92, 1.08, lobes * 2)
        crown = smooth(
            *[(float(r * np.cos(a)), float(r * np.sin(a)) - 0.3) for a, r in zip(angle, radius, strict=True)]
        )
        return [trunk, Part(crown), Part(ellipse(-0.2, -0.45, 0.2, 0.15), "light")]
    if form == 1:  # a conifer
        tiers = [(-1.0, -0.35, 0.4), (-0.6, 0.1, 0.55), (-0.2, 0.55, 0.7)]
        return [trunk] + [
            Part(polygon((0, t), (w, b), (0, b - 0.08), (-w, b)), tone)
            for (t, b, w), tone in zip(tiers[::-1], ("dark", "main", "main"), strict=True)
        ]
    return [
        trunk,
        Part(
            smooth((0, -1.0), (0.3, -0.5), (0.36, 0.1), (0.2, 0.45), (-0.2, 0.45), (-0.36, 0.1), (-0.3, -0.5))
        ),
        Part(ellipse(-0.1, -0.3, 0.1, 0.3), "light"),
    ]


def flower(rng: np.random.Generator, form: int) -> list[Part]:
    stem = stroke(smooth((0, -0.3), (rng.uniform(-0.12, 0.12), 0.4), (0, 1.0), closed=False), 0.09)
    leaves = [
        Part(rotated(ellipse(0.28, 0.55, 0.26, 0.1), -25, (0, 0.6)), "leaf"),
        Part(rotated(ellipse(-0.28, 0.7, 0.26, 0.1), 25, (0, 0.75)), "leaf"),
    ]
    if form == 2:  # a tulip
        bloom = smooth(
            (-0.42, -0.75),
            (-0.2, -0.62),
            (0, -0.95),
            (0.2, -0.62),
            (0.42, -0.75),
            (0.4, -0.25),
            (0, 0.02),
            (-0.4, -0.25),
        )
        return [Part(stem, "leaf"), *leaves, Part(bloom), Part(ellipse(0, -0.42, 0.12, 0.36), "light")]
    petals = int(rng.integers(5, 7)) if form == 0 else int(rng.integers(8, 12))
    long, wide = (0.3, 0.25) if form == 0 else (0.34, 0.13)
    centre = -0.42
    round_bloom = [
        Part(rotated(ellipse(long, centre, long, wide), 360 * i / petals, (0, centre))) for i in range(petals)
    ]
    return [
        Part(stem, "leaf"),
        *leaves[: 2 - form],
        *round_bloom,
        Part(ellipse(0, centre, 0.17, 0.17), "yolk"),
    ]


def leaf(rng: np.random.Generator, form: int) -> list[Part]:
    stem = Part(line(0, 0.6, rng.uniform(-0.08, 0.08), 1.05, 0.07), "wood")
    if form == 0:
        blade = smooth(
            (0, -1.0),
            (0.3, -0.55),
            (0.45, 0.0),
            (0.28, 0.5),
            (0, 0.75),
            (-0.28, 0.5),
            (-0.45, 0.0),
            (-0.3, -0.55),
        )
    elif form == 1:  # maple
        half = [
            (0.0, -1.0),
            (0.2, -0.5),
            (0.5, -0.65),
            (0.42, -0.3),
            (0.95, -0.25),
            (0.62, 0.1),
            (0.8, 0.45),
            (0.3, 0.42),
            (0.0, 0.7),
        ]
        blade = polygon(*half, *[(-x, y) for x, y in half[-2:0:-1]])
    else:  # oak, in round lobes
        half = [
            (0.0, -0.95),
            (0.3, -0.8),
            (0.18, -0.5),
            (0.48, -0.35),
            (0.25, -0.02),
            (0.5, 0.2),
            (0.2, 0.45),
            (0.0, 0.75),
        ]
        blade = smooth(*half, *[(-x, y) for x, y in half[-2:0:-1]])
    veins = [Part(line(0, 0.7, 0, -0.75, 0.05), "dark")]
    veins += [Part(line(0, y, s * 0.25, y - 0.22, 0.035), "dark") for y in (-0.2, 0.2) for s in (-1, 1)]
    return [stem, Part(blade), *veins]


PLANTS: dict[str, Outline] = {
    f.__name__: f for f in (apple, pear, banana, mushroom, rock, tree, flower, leaf)
}
