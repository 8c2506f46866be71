"""Outlines of household things: three forms each, loosened by random numbers."""

import numpy as np

from florence2_sam2.training.geometry import (
    Outline,
    Part,
    arc,
    ellipse,
    line,
    polygon,
    rectangle,
    rotated,
    smooth,
    stroke,
)


def cup(rng: np.random.Generator, form: int) -> list[Part]:
    if form == 1:  # a tea cup on its saucer
        bowl = smooth(
            (-0.75, -0.5), (-0.7, 0.1), (-0.35, 0.55), (0.35, 0.55), (0.7, 0.1), (0.75, -0.5), (0, -0.42)
        )
        handle = arc(0.72, -0.12, 0.28, 0.26, -100, 110, 0.12)
        return [
            Part(ellipse(0, 0.6, 0.95, 0.14), "dark"),
            Part(handle),
            Part(bowl),
            Part(ellipse(0, -0.5, 0.75, 0.12), "dark"),
            Part(ellipse(0, -0.48, 0.62, 0.08), "coffee"),
        ]
    narrow = [0.55, 0.0, 0.42][form]
    handle = (
        arc(0.55, 0.05, 0.42, 0.42 + rng.uniform(-0.05, 0.08), -100, 100, 0.15)
        if form == 0
        else stroke(np.array([[0.5, -0.35], [0.95, -0.35], [0.95, 0.2], [0.45, 0.4]]), 0.14)
    )
    body = smooth(
        (-0.6, -0.75),
        (-narrow, 0.75),
        (-narrow + 0.15, 0.85),
        (narrow - 0.15, 0.85),
        (narrow, 0.75),
        (0.6, -0.75),
    )
    body = np.clip(body, [-0.62, -0.78], [0.62, 0.9])
    return [
        Part(handle),
        Part(body),
        Part(ellipse(0, -0.75, 0.6, 0.14), "dark"),
        Part(ellipse(0, -0.73, 0.5, 0.09), "coffee"),
    ]


def bottle(rng: np.random.Generator, form: int) -> list[Part]:
    w, shoulder = [(0.32, -0.15), (0.55, 0.0), (0.42, -0.35)][form]
    w *= rng.uniform(0.9, 1.1)
    if form == 1:  # a round flask
        body = smooth(
            (-0.12, -0.7),
            (-0.14, -0.25),
            (-w, 0.2),
            (-w, 0.65),
            (-0.3, 0.95),
            (0.3, 0.95),
            (w, 0.65),
            (w, 0.2),
            (0.14, -0.25),
            (0.12, -0.7),
        )
    else:
        body = polygon(
            (-0.12, -0.8),
            (-0.13, shoulder - 0.2),
            (-w, shoulder + 0.1),
            (-w, 0.9),
            (-w + 0.06, 0.97),
            (w - 0.06, 0.97),
            (w, 0.9),
            (w, shoulder + 0.1),
            (0.13, shoulder - 0.2),
            (0.12, -0.8),
        )
    cap = Part(rectangle(-0.15, -1.0, 0.15, -0.76), ["cream", "wood", "dark"][form])
    label = Part(rectangle(-w * 0.98, 0.25, w * 0.98, 0.65), "cream" if form != 1 else "light")
    shine = Part(line(-w * 0.6, 0.0, -w * 0.6, 0.85, 0.08), "light")
    return [Part(body), cap, *([label] if rng.random() < 0.6 else []), shine]


def key(rng: np.random.Generator, form: int) -> list[Part]:
    shaft = Part(rectangle(-0.2, -0.09, 1.0, 0.09))
    depth = rng.uniform(0.24, 0.34)
    teeth = [
        Part(rectangle(x, 0, x + 0.11, depth * s))
        for x, s in ((0.86, 1.0), (0.68, 0.75), (0.52, 0.9 if form else 0.0))
    ]
    if form == 0:
        bow = [Part(ellipse(-0.58, 0, 0.42, 0.42)), Part(ellipse(-0.58, 0, 0.23, 0.23), hole=True)]
    elif form == 1:
        bow = [Part(ellipse(-0.55, 0, 0.36, 0.5)), Part(ellipse(-0.58, 0, 0.16, 0.3), hole=True)]
    else:  # three loops
        rings = [(-0.42, -0.3), (-0.42, 0.3), (-0.75, 0.0)]
        bow = [Part(ellipse(x, y, 0.27, 0.27)) for x, y in rings] + [
            Part(ellipse(x, y, 0.13, 0.13), hole=True) for x, y in rings
        ]
    return [shaft, *teeth, *bow]


def lamp(rng: np.random.Generator, form: int) -> list[Part]:
    foot = Part(ellipse(0, 0.88, 0.42, 0.12), "metal")
    if form == 1:  # a desk lamp with a bent arm
        arm = stroke(np.array([[0.1, 0.85], [0.45, 0.1], [-0.15, -0.55]]), 0.09)
        head = rotated(polygon((-0.22, -0.75), (0.12, -0.75), (0.42, -0.2), (-0.52, -0.2)), -35, (-0.1, -0.5))
        return [Part(ellipse(0.1, 0.88, 0.42, 0.12), "dark"), Part(arm, "metal"), Part(head)]
    top, low = [(0.32, 0.68), (0.0, 0.0), (0.5, 0.62)][form]
    stem = (
        Part(line(0, -0.2, 0, 0.85, 0.09), "metal")
        if form == 0
        else Part(
            smooth((-0.1, -0.1), (-0.32, 0.4), (-0.15, 0.85), (0.15, 0.85), (0.32, 0.4), (0.1, -0.1)), "cream"
        )
    )
    shade = polygon((-top, -0.95), (top, -0.95), (low, -0.05), (-low, -0.05))
    return [
        foot,
        stem,
        Part(shade),
        Part(polygon((-low, -0.14), (low, -0.14), (low, -0.05), (-low, -0.05)), "light"),
    ]


def book(rng: np.random.Generator, form: int) -> list[Part]:
    if form == 0:  # closed, upright
        return [
            Part(rectangle(-0.66, -0.9, 0.72, 0.9), "cream"),
            Part(rectangle(-0.72, -0.95, 0.66, 0.85)),
            Part(rectangle(-0.72, -0.95, -0.55, 0.85), "dark"),
            Part(rectangle(-0.3, -0.6, 0.42, -0.25), "cream"),
            Part(line(-0.25, 0.5, 0.38, 0.5, 0.06), "light"),
        ]
    if form == 1:  # open, seen from above
        parts = []
        for s in (-1, 1):
            parts += [
                Part(polygon((0, -0.55), (s * 1.0, -0.65), (s * 1.0, 0.65), (0, 0.72))),
                Part(polygon((0, -0.48), (s * 0.88, -0.56), (s * 0.88, 0.52), (0, 0.58)), "cream"),
            ]
            parts += [Part(line(s * 0.15, y, s * 0.75, y - 0.03, 0.05), "ink") for y in (-0.25, 0.0, 0.25)]
        return [*parts, Part(line(0, -0.5, 0, 0.66, 0.05), "dark")]
    return [
        Part(polygon((-0.9, 0.0), (-0.3, -0.55), (1.0, -0.3), (0.4, 0.3))),  # lying, seen from the side
        Part(polygon((-0.88, 0.05), (0.4, 0.34), (0.4, 0.58), (-0.88, 0.3)), "cream"),
        Part(polygon((0.4, 0.34), (1.0, -0.26), (1.0, -0.02), (0.4, 0.58)), "cream"),
        Part(
            polygon((-0.9, 0.28), (0.4, 0.56), (1.0, -0.04), (1.0, 0.04), (0.4, 0.66), (-0.9, 0.38)), "dark"
        ),
        Part(polygon((-0.9, 0.0), (-0.8, 0.02), (-0.8, 0.34), (-0.9, 0.32)), "dark"),
    ]


def hat(rng: np.random.Generator, form: int) -> list[Part]:
    if form == 0:  # a top hat
        return [
            Part(ellipse(0, 0.6, 0.95, 0.2)),
            Part(polygon((-0.55, 0.55), (-0.62, -0.8), (0.62, -0.8), (0.55, 0.55))),
            Part(ellipse(0, -0.8, 0.62, 0.12), "light"),
            Part(polygon((-0.56, 0.5), (-0.57, 0.22), (0.57, 0.22), (0.56, 0.5)), "dark"),
        ]
    if form == 1:  # a sun hat
        crown = smooth((-0.5, 0.25), (-0.42, -0.25), (0, -0.5), (0.42, -0.25), (0.5, 0.25))
        return [
            Part(
                smooth(
                    (-1.0, 0.4),
                    (-0.45, 0.12),
                    (0, 0.1),
                    (0.45, 0.12),
                    (1.0, 0.4),
                    (0.5, 0.55),
                    (0, 0.6),
                    (-0.5, 0.55),
                )
            ),
            Part(crown),
            Part(stroke(smooth((-0.48, 0.2), (0, 0.32), (0.48, 0.2), closed=False), 0.15), "dark"),
        ]
    crown = smooth((-0.6, 0.3), (-0.6, -0.2), (-0.2, -0.6), (0.3, -0.55), (0.6, -0.15), (0.6, 0.3), (0, 0.36))
    return [
        Part(smooth((-0.6, 0.2), (-1.15, 0.35), (-1.2, 0.5), (-0.5, 0.45), (0.0, 0.35), (-0.2, 0.2)), "dark"),
        Part(crown),
        Part(ellipse(0.03, -0.58, 0.09, 0.07), "light"),
        Part(stroke(smooth((0, -0.55), (-0.08, -0.1), (-0.05, 0.34), closed=False), 0.04), "dark"),
    ]


def umbrella(rng: np.random.Generator, form: int) -> list[Part]:
    depth = [0.95, 0.7, 1.1][form]
    stick = Part(line(0, -0.95, 0, 0.75, 0.07), "wood")
    hook = Part(arc(-0.16, 0.75, 0.16, 0.2, 0, 180, 0.08), "wood")
    dome = ellipse(0, 0, 0.98, depth, 180, 359)
    ribs = [3, 4, 3][form]
    edge = [(1.0 - 2.0 * (i + 0.5 * j) / ribs, -0.16 * j * (form != 1)) for i in range(ribs) for j in (0, 1)]
    canopy = np.concatenate([dome, smooth(*edge, (-1.0, 0.0), closed=False)]) - np.array([0, 0.02])
    panel = polygon((0, -depth), (0.33, -0.1), (-0.33, -0.1))
    return [stick, hook, Part(canopy), Part(panel, "light" if form else "dark")]


def spoon(rng: np.random.Generator, form: int) -> list[Part]:
    rx, ry = [(0.38, 0.25), (0.34, 0.34), (0.42, 0.2)][form]
    handle = stroke(
        smooth((-0.4, 0), (0.3, rng.uniform(-0.06, 0.06)), (1.0, 0), closed=False),
        0.1,
        0.17 if form != 1 else 0.1,
    )
    end = [Part(ellipse(1.0, 0, 0.1, 0.1))] if form == 1 else []
    return [
        Part(handle),
        *end,
        Part(ellipse(-0.62, 0, rx, ry)),
        Part(ellipse(-0.62, 0, rx * 0.7, ry * 0.66), "dark"),
    ]


def hammer(rng: np.random.Generator, form: int) -> list[Part]:
    handle = Part(polygon((-0.07, -0.6), (0.07, -0.6), (0.11, 1.0), (-0.11, 1.0)), "wood")
    if form == 0:  # claw
        head = [
            Part(polygon((-0.6, -0.9), (0.15, -0.88), (0.15, -0.5), (-0.6, -0.48))),
            Part(smooth((0.1, -0.88), (0.5, -0.85), (0.8, -0.5), (0.72, -0.48), (0.45, -0.62), (0.1, -0.5))),
        ]
    elif form == 1:  # mallet
        head = [
            Part(rectangle(-0.62, -1.0, 0.62, -0.42)),
            Part(rectangle(-0.62, -1.0, -0.5, -0.42), "dark"),
            Part(rectangle(0.5, -1.0, 0.62, -0.42), "dark"),
        ]
    else:  # cross peen
        head = [
            Part(
                polygon(
                    (-0.62, -0.92),
                    (-0.1, -0.85),
                    (0.3, -0.88),
                    (0.75, -0.66),
                    (0.3, -0.48),
                    (-0.1, -0.52),
                    (-0.62, -0.45),
                )
            )
        ]
    return [handle, *head, Part(rectangle(-0.1, -0.88, 0.1, -0.5), "dark")]


def ball(rng: np.random.Generator, form: int) -> list[Part]:
    parts = [Part(ellipse(0, 0, 0.95, 0.95))]
    if form == 1:  # a band
        parts += [
            Part(
                smooth((-0.93, -0.12), (0, 0.08), (0.93, -0.12), (0.93, 0.15), (0, 0.38), (-0.93, 0.15)),
                "white",
            )
        ]
    if form == 2:  # panels of a beach ball
        parts += [
            Part(
                polygon(
                    (0, 0),
                    *[
                        (float(0.94 * np.cos(a)), float(0.94 * np.sin(a)))
                        for a in np.linspace(s, s + 1.05, 8)
                    ],
                ),
                "white",
            )
            for s in np.arange(3) * 2 * np.pi / 3 + rng.uniform(0, 2)
        ]
    return parts


HOUSEHOLD: dict[str, Outline] = {
    f.__name__: f for f in (cup, bottle, key, lamp, book, hat, umbrella, spoon, hammer, ball)
}
