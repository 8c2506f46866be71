"""Outlines of plain shapes: three forms each, loosened by random numbers."""

import numpy as np

from florence2_sam2.training.geometry import Outline, Part, ellipse, polygon, rectangle, smooth


def star(rng: np.random.Generator, form: int) -> list[Part]:
    points = (5, 6, 4)[form]
    inner = (0.42, 0.55, 0.38)[form] * rng.uniform(0.9, 1.1)
    angle = np.arange(points * 2) * np.pi / points - np.pi / 2
    radius = np.where(np.arange(points * 2) % 2 == 0, 1.0, inner)
    return [
        Part(
            polygon(
                *[(float(r * np.cos(a)), float(r * np.sin(a))) for a, r in zip(angle, radius, strict=True)]
            )
        )
    ]


def heart(rng: np.random.Generator, form: int) -> list[Part]:
    wide, dip = [(0.95, -0.35), (0.8, -0.2), (1.0, -0.5)][form]
    half = [(0.0, 0.95), (wide * 0.62, 0.3), (wide, -0.25), (wide * 0.75, -0.75), (wide * 0.35, -0.78)]
    return [Part(smooth(*half, (0.0, dip), *[(-x, y) for x, y in half[:0:-1]]))]


def ring(rng: np.random.Generator, form: int) -> list[Part]:
    inner = (0.6, 0.45, 0.75)[form] * rng.uniform(0.94, 1.06)
    tall = (1.0, 1.0, 0.8)[form]
    return [Part(ellipse(0, 0, 1, tall)), Part(ellipse(0, 0, inner, inner * tall), hole=True)]


def square(rng: np.random.Generator, form: int) -> list[Part]:
    if form == 1:  # rounded corners
        angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        return [
            Part(
                np.c_[
                    np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** 0.4,
                    np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** 0.4,
                ]
                * 0.9
            )
        ]
    return [Part(rectangle(-0.88, -0.88, 0.88, 0.88))] + (
        [Part(rectangle(-0.62, -0.62, 0.62, 0.62), "light")] if form == 2 else []
    )


def triangle(rng: np.random.Generator, form: int) -> list[Part]:
    corners = [
        ((0, -0.9), (0.95, 0.75), (-0.95, 0.75)),
        ((-0.8, -0.9), (0.9, 0.8), (-0.8, 0.8)),
        ((0, -1.0), (0.6, 0.9), (-0.6, 0.9)),
    ][form]
    return [Part(polygon(*corners))]


def cross(rng: np.random.Generator, form: int) -> list[Part]:
    w = (0.32, 0.2, 0.3)[form] * rng.uniform(0.9, 1.1)
    y = (0.0, 0.0, -0.3)[form]
    return [
        Part(
            polygon(
                (-w, -1),
                (w, -1),
                (w, y - w),
                (0.95, y - w),
                (0.95, y + w),
                (w, y + w),
                (w, 1),
                (-w, 1),
                (-w, y + w),
                (-0.95, y + w),
                (-0.95, y - w),
                (-w, y - w),
            )
        )
    ]


SHAPES: dict[str, Outline] = {f.__name__: f for f in (star, heart, ring, square, triangle, cross)}
