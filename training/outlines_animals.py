"""Outlines of animals: three forms each, loosened by random numbers."""

import numpy as np

from florence2_sam2.training.geometry import (
    Outline,
    Part,
    ellipse,
    line,
    mirrored,
    polygon,
    rotated,
    smooth,
    stroke,
)


def fish(rng: np.random.Generator, form: int) -> list[Part]:
    tall = [0.36, 0.58, 0.5][form] * rng.uniform(0.9, 1.1)
    body = smooth(
        (-0.95, 0.02),
        (-0.6, -0.7 * tall),
        (-0.05, -tall),
        (0.45, -0.45 * tall),
        (0.66, 0),
        (0.45, 0.45 * tall),
        (-0.05, tall),
        (-0.6, 0.7 * tall),
    )
    tail = polygon((0.55, 0), (1.0, -0.42), (0.88 - 0.1 * (form == 1), 0), (1.0, 0.42))
    fins = [polygon((-0.2, -0.75 * tall), (0.15, -tall - 0.25), (0.35, -0.55 * tall))]
    if form == 2:  # long fins above and below
        fins = [
            polygon((-0.3, -0.8 * tall), (0.3, -tall - 0.5), (0.4, -0.4 * tall)),
            polygon((-0.3, 0.8 * tall), (0.3, tall + 0.5), (0.4, 0.4 * tall)),
        ]
    eye = [Part(ellipse(-0.62, -0.1, 0.1, 0.1), "white"), Part(ellipse(-0.63, -0.1, 0.05, 0.05), "ink")]
    stripes = (
        [Part(line(x, -0.72 * tall, x, 0.72 * tall, 0.09), "light") for x in (-0.25, 0.1)]
        if form == 1
        else []
    )
    gill = Part(stroke(smooth((-0.4, -0.2), (-0.32, 0), (-0.4, 0.2), closed=False), 0.04), "dark")
    return [Part(tail, "dark"), *[Part(f, "dark") for f in fins], Part(body), *stripes, gill, *eye]


def bird(rng: np.random.Generator, form: int) -> list[Part]:
    eye = [Part(ellipse(-0.55, -0.48, 0.07, 0.07), "white"), Part(ellipse(-0.56, -0.48, 0.04, 0.04), "ink")]
    beak = Part(polygon((-0.72, -0.55), (-1.0, -0.42), (-0.72, -0.34)), "beak")
    head = Part(ellipse(-0.5, -0.45, 0.28, 0.26))
    if form == 1:  # flying, wings up
        body = smooth(
            (-0.7, -0.35), (-0.2, -0.25), (0.5, 0.0), (1.0, 0.1), (0.9, 0.3), (0.1, 0.35), (-0.5, 0.1)
        )
        wing = smooth((-0.2, -0.15), (-0.05, -0.75), (0.35, -1.0), (0.4, -0.55), (0.35, -0.05))
        return [beak, Part(wing + np.array([0.22, 0.02]), "dark"), Part(body), head, Part(wing), *eye]
    if form == 2:  # swimming, long neck
        body = smooth(
            (-0.55, 0.25), (-0.1, 0.1), (0.5, 0.1), (1.0, -0.15), (0.85, 0.5), (0.2, 0.75), (-0.4, 0.65)
        )
        neck = stroke(smooth((-0.5, -0.5), (-0.35, -0.15), (-0.4, 0.35), closed=False), 0.26, 0.34)
        return [beak, Part(neck), Part(body), head, Part(ellipse(0.25, 0.35, 0.38, 0.2), "dark"), *eye]
    body = smooth((-0.6, -0.3), (-0.1, -0.35), (0.4, 0.1), (0.3, 0.5), (-0.1, 0.68), (-0.55, 0.35))
    tail = polygon((0.2, 0.1), (0.95, 0.55), (0.8, 0.75), (0.15, 0.5))
    legs = [Part(line(x, 0.55, x + 0.03, 1.0, 0.06), "beak") for x in (-0.2, 0.05)]
    return [
        *legs,
        beak,
        Part(tail, "dark"),
        Part(body),
        head,
        Part(rotated(ellipse(0.05, 0.12, 0.34, 0.18), 35, (0.05, 0.12)), "dark"),
        *eye,
    ]


def butterfly(rng: np.random.Generator, form: int) -> list[Part]:
    upper = [
        smooth((0.05, -0.05), (0.35, -0.75), (0.85, -0.85), (0.95, -0.4), (0.5, 0.0)),
        smooth((0.05, 0.0), (0.25, -0.85), (0.6, -0.95), (0.75, -0.45), (0.4, 0.05)),
        polygon((0.05, -0.05), (0.55, -0.9), (1.0, -0.8), (0.9, -0.2), (0.4, 0.05)),
    ][form]
    lower = [
        smooth((0.05, 0.0), (0.6, 0.05), (0.75, 0.45), (0.4, 0.75), (0.1, 0.35)),
        smooth((0.05, 0.0), (0.5, 0.1), (0.55, 0.5), (0.45, 0.95), (0.3, 0.5)),
        polygon((0.05, 0.0), (0.7, 0.1), (0.75, 0.55), (0.3, 0.8), (0.08, 0.3)),
    ][form]
    spot = ellipse(0.62, -0.5, 0.13, 0.15)
    wings = [
        Part(side(p), tone)
        for p, tone in ((lower, "dark"), (upper, "main"), (spot, "light"))
        for side in (np.copy, mirrored)
    ]
    feelers = [Part(line(0, -0.4, s * 0.2, -0.85, 0.035), "ink") for s in (-1, 1)]
    return [*wings, *feelers, Part(ellipse(0, 0, 0.08, 0.52), "ink")]


ANIMALS: dict[str, Outline] = {f.__name__: f for f in (fish, bird, butterfly)}
