"""Outlines of buildings and vehicles: three forms each, loosened by random numbers."""

import numpy as np

from florence2_sam2.training.geometry import Outline, Part, ellipse, line, polygon, rectangle, smooth


def house(rng: np.random.Generator, form: int) -> list[Part]:
    panes = [Part(rectangle(x, 0.05, x + 0.3, 0.35), "glass") for x in (-0.62, 0.32)]
    door = Part(rectangle(-0.15, 0.3, 0.17, 0.9), "wood")
    if form == 0:
        return [
            Part(rectangle(0.4, -0.85, 0.58, -0.3), "dark"),
            Part(rectangle(-0.8, -0.2, 0.8, 0.9)),
            Part(polygon((-0.98, -0.15), (0, -0.95), (0.98, -0.15)), "roof"),
            door,
            *panes,
        ]
    if form == 1:  # tall and narrow
        rows = [
            Part(rectangle(x, y, x + 0.22, y + 0.24), "glass") for x in (-0.36, 0.14) for y in (-0.4, 0.02)
        ]
        return [
            Part(rectangle(-0.55, -0.5, 0.55, 0.98)),
            Part(polygon((-0.65, -0.48), (0, -1.0), (0.65, -0.48)), "roof"),
            Part(rectangle(-0.14, 0.5, 0.14, 0.98), "wood"),
            *rows,
        ]
    return [
        Part(rectangle(-0.95, -0.05, 0.95, 0.72)),
        Part(polygon((-1.0, 0.0), (-0.7, -0.55), (0.7, -0.55), (1.0, 0.0)), "roof"),
        Part(rectangle(-0.15, 0.2, 0.17, 0.72), "wood"),
        *[Part(rectangle(x, 0.12, x + 0.34, 0.42), "glass") for x in (-0.72, 0.38)],
    ]


def car(rng: np.random.Generator, form: int) -> list[Part]:
    wheels = [
        Part(ellipse(x, 0.42, r, r), tone)
        for x in (-0.55, 0.55)
        for r, tone in ((0.2, "ink"), (0.09, "metal"))
    ]
    lights = [Part(ellipse(-0.93, 0.12, 0.06, 0.07), "yolk")]
    if form == 1:  # a van
        return [
            Part(
                smooth(
                    (-0.98, 0.38),
                    (-0.98, -0.05),
                    (-0.72, -0.5),
                    (0.85, -0.55),
                    (0.98, -0.4),
                    (0.98, 0.38),
                    (0, 0.42),
                )
            ),
            *wheels,
            Part(polygon((-0.85, -0.08), (-0.66, -0.38), (-0.4, -0.38), (-0.4, -0.08)), "glass"),
            Part(rectangle(-0.3, -0.38, 0.15, -0.08), "glass"),
            *lights,
        ]
    if form == 2:  # a pickup
        return [
            Part(
                polygon(
                    (-1.0, 0.38),
                    (-1.0, 0.0),
                    (-0.55, -0.08),
                    (-0.35, -0.52),
                    (0.15, -0.52),
                    (0.18, -0.08),
                    (1.0, -0.08),
                    (1.0, 0.38),
                )
            ),
            *wheels,
            Part(polygon((-0.45, -0.08), (-0.28, -0.42), (0.05, -0.42), (0.08, -0.08)), "glass"),
            *lights,
        ]
    roof = rng.uniform(-0.6, -0.48)
    return [
        Part(
            smooth(
                (-1.0, 0.35),
                (-0.98, 0.02),
                (-0.55, -0.12),
                (-0.3, roof),
                (0.35, roof),
                (0.62, -0.1),
                (0.98, 0.0),
                (1.0, 0.35),
                (0, 0.42),
            )
        ),
        *wheels,
        Part(polygon((-0.45, -0.1), (-0.24, roof + 0.1), (0.0, roof + 0.1), (0.0, -0.1)), "glass"),
        Part(polygon((0.08, -0.1), (0.08, roof + 0.1), (0.3, roof + 0.1), (0.48, -0.1)), "glass"),
        *lights,
    ]


def boat(rng: np.random.Generator, form: int) -> list[Part]:
    hull = Part(polygon((-0.95, 0.35), (0.95, 0.35), (0.62, 0.85), (-0.65, 0.85)))
    if form == 0:  # sails
        return [
            Part(line(0, -1.0, 0, 0.4, 0.06), "wood"),
            Part(polygon((0.06, -0.95), (0.75, 0.2), (0.06, 0.22)), "cream"),
            Part(polygon((-0.06, -0.7), (-0.06, 0.22), (-0.6, 0.2)), "white"),
            hull,
            Part(line(-0.85, 0.5, 0.85, 0.5, 0.08), "light"),
        ]
    if form == 1:  # a steamer
        return [
            Part(rectangle(0.05, -0.75, 0.3, 0.0), "dark"),
            Part(rectangle(-0.55, -0.05, 0.5, 0.38), "white"),
            hull,
            *[Part(ellipse(x, 0.15, 0.09, 0.09), "glass") for x in (-0.35, -0.02, 0.3)],
            Part(rectangle(0.05, -0.6, 0.3, -0.45), "cream"),
        ]
    return [
        Part(line(-0.35, 0.1, -0.75, 0.75, 0.06), "wood"),
        Part(
            smooth(
                (-1.0, 0.05),
                (-0.5, 0.2),
                (0, 0.25),
                (0.5, 0.2),
                (1.0, 0.05),
                (0.7, 0.6),
                (0, 0.72),
                (-0.7, 0.6),
            )
        ),
        Part(smooth((-0.85, 0.14), (0, 0.22), (0.85, 0.14), (0, 0.36)), "dark"),
        Part(line(0.3, 0.2, 0.55, 0.85, 0.06), "wood"),
    ]


def airplane(rng: np.random.Generator, form: int) -> list[Part]:
    if form == 2:  # seen from the side
        body = smooth((-1.0, 0.05), (-0.75, -0.18), (0.4, -0.18), (1.0, -0.12), (0.7, 0.12), (-0.6, 0.2))
        return [
            Part(polygon((0.55, -0.12), (0.85, -0.6), (1.02, -0.6), (0.95, -0.1)), "dark"),
            Part(body),
            Part(polygon((-0.15, 0.05), (0.35, 0.05), (0.65, 0.48), (0.45, 0.48)), "dark"),
            *[Part(ellipse(x, -0.05, 0.05, 0.05), "glass") for x in (-0.55, -0.3, -0.05, 0.2, 0.45)],
        ]
    sweep = [0.45, 0.05][form]
    wing = polygon(
        (0, -0.25),
        (0.98, -0.1 + sweep),
        (0.98, 0.06 + sweep),
        (0, 0.2),
        (-0.98, 0.06 + sweep),
        (-0.98, -0.1 + sweep),
    )
    tail = polygon((0, 0.68), (0.38, 0.85), (0.38, 0.95), (0, 0.9), (-0.38, 0.95), (-0.38, 0.85))
    body = smooth(
        (0, -1.0), (0.14, -0.7), (0.13, 0.3), (0.06, 0.95), (-0.06, 0.95), (-0.13, 0.3), (-0.14, -0.7)
    )
    return [Part(wing, "dark"), Part(tail, "dark"), Part(body), Part(ellipse(0, -0.72, 0.08, 0.09), "glass")]


OUTDOORS: dict[str, Outline] = {f.__name__: f for f in (house, car, boat, airplane)}
