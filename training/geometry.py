"""Curves for drawing outlines.

Coordinates are unit coordinates, x to the right and y down, roughly within [-1, 1]. Every function
returns a closed polygon as float64 [N, 2] with enough points that bending it later looks smooth.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Points = np.ndarray


@dataclass(frozen=True)
class Part:
    """One filled polygon of a thing; a hole is cut out of everything drawn before it.

    `tone` names the paint: "main" is the object's own colour, "dark" and "light" are shades of it,
    the others ("wood", "metal", "leaf", "glass", "ink", "cream", "skin") are fixed materials.
    """

    points: Points
    tone: str = "main"
    hole: bool = False


Outline = Callable[[np.random.Generator, int], list[Part]]
"""Draws one kind of thing: random numbers and the number of its form, to the parts in painting order."""


def ellipse(cx: float, cy: float, rx: float, ry: float, start: float = 0, stop: float = 360) -> Points:
    """An ellipse, or the closed sector boundary between two angles in degrees (0 = right, 90 = down)."""
    whole = stop - start >= 360
    angle = np.radians(np.linspace(start, stop, 36, endpoint=not whole))
    return np.c_[cx + rx * np.cos(angle), cy + ry * np.sin(angle)]


def polygon(*corners: tuple[float, float]) -> Points:
    """Straight edges, six points an edge."""
    p = np.asarray(corners, float)
    t = (np.arange(6) / 6)[None, :, None]
    return (p[:, None] * (1 - t) + np.roll(p, -1, axis=0)[:, None] * t).reshape(-1, 2)


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Points:
    """An upright rectangle."""
    return polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def smooth(*knots: tuple[float, float], closed: bool = True) -> Points:
    """A Catmull-Rom curve through the knots (six points a span); open curves start and end at a knot."""
    p = np.asarray(knots, float)
    if closed:
        before, after, last = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
        here = p
    else:
        padded = np.concatenate([p[:1], p, p[-1:]])
        before, here, after, last = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    t = (np.arange(6) / 6)[None, :, None]
    a, b, c, d = (q[:, None] for q in (before, here, after, last))
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - 3 * c + d - a) * t**3)
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-1:]])


def stroke(path: Points, width: float, end_width: float | None = None) -> Points:
    """The outline of a line drawn along an open path, tapering from `width` to `end_width`."""
    along = np.gradient(path, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    normal = np.c_[-along[:, 1], along[:, 0]]
    half = np.linspace(width, width if end_width is None else end_width, len(path))[:, None] / 2
    return np.concatenate([path + normal * half, (path - normal * half)[::-1]])


def line(x0: float, y0: float, x1: float, y1: float, width: float) -> Points:
    """A straight bar."""
    t = np.linspace(0, 1, 6)[:, None]
    return stroke(np.array([[x0, y0]]) * (1 - t) + np.array([[x1, y1]]) * t, width)


def arc(cx: float, cy: float, rx: float, ry: float, start: float, stop: float, width: float) -> Points:
    """A bent bar: part of an ellipse, drawn with a pen of the given width."""
    return stroke(ellipse(cx, cy, rx, ry, start, min(stop, start + 359.9)), width)


def rotated(points: Points, degrees: float, about: tuple[float, float] = (0.0, 0.0)) -> Points:
    """The points turned clockwise (as seen, with y down) about a centre."""
    a = np.radians(degrees)
    turn = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    return (points - about) @ turn + about


def mirrored(points: Points) -> Points:
    """The points reflected left to right."""
    return points * np.array([-1.0, 1.0])
