"""Seconds of a call that is worked on among others, as a formula with two or three numbers that are fitted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

SHARP = math.inf
_GAINS = np.geomspace(1.0, 64.0, 400)
_LOSSES = np.concatenate([[0.0], np.geomspace(1e-4, 0.2, 60)])


@dataclass(frozen=True)
class Curve:
    """A call takes `alone` seconds by itself, and among n that are worked on at once

        alone · ((1 - gain^-s + (n / gain)^s)^(1/s) + loss · n · (n - 1))

    `gain` ≥ 1: without loss, so many times the throughput of one call at a time is reached by many. `sharpness` s ≥
    1: how suddenly. 1: each call more makes all of them longer by the same time, as in a batch; infinite: none is
    longer until what all of them need is busy, as with cores. `loss` ≥ 0: what calls take from each other beyond
    that; with s = 1 this is the universal scalability law.

    Raises:
        ValueError: a number is out of its range.
    """

    alone: float
    gain: float = 1.0
    sharpness: float = SHARP
    loss: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.alone < math.inf:
            raise ValueError(f"alone: {self.alone} s is out of range, more than 0 is needed")
        if not 1 <= self.gain < math.inf:
            raise ValueError(f"gain: {self.gain} is out of range, at least 1 is needed")
        if not self.sharpness >= 1:
            raise ValueError(f"sharpness: {self.sharpness} is out of range, at least 1 is needed")
        if not 0 <= self.loss < math.inf:
            raise ValueError(f"loss: {self.loss} is out of range, at least 0 is needed")

    def seconds(self, calls: int) -> float:
        """Of a call when `calls` ≥ 1 are worked on at once."""
        return self.alone * _shape(float(calls), self.gain, self.sharpness, self.loss)

    def throughput(self, calls: int) -> float:
        """Answers a second then."""
        return calls / self.seconds(calls)


def _shape(calls: float, gain: float, sharpness: float, loss: float) -> float:
    """Seconds among `calls`, those of a call alone being 1."""
    share = calls / gain
    if math.isinf(sharpness):
        base = max(1.0, share)
    else:
        base = (1.0 - gain**-sharpness + share**sharpness) ** (1.0 / sharpness)
    return base + loss * calls * (calls - 1.0)


@dataclass(frozen=True)
class Form:
    """A kind of curve that may be fitted. `gains` False: one call at a time, whatever comes."""

    name: str
    sharpness: float
    gains: bool = True
    loses: bool = False


FORMS = (
    Form("no gain (M/G/1)", SHARP, gains=False),
    Form("batch (s = 1)", 1.0),
    Form("universal scalability law", 1.0, loses=True),
    Form("rounded (s = 4)", 4.0),
    Form("cores (s infinite)", SHARP),
    Form("cores, with loss", SHARP, loses=True),
)


def fit(throughput: Mapping[int, float], form: Form) -> Curve:
    """The curve of `form` nearest to measured answers a second, by how many calls were worked on at once. Nearest
    is the least sum of squares of the logarithms' differences: a tenth too much counts as a tenth too little.

    Raises:
        ValueError: there is no point, or one is not above 0.
    """
    if not throughput or any(calls < 1 or value <= 0 for calls, value in throughput.items()):
        raise ValueError("a curve needs answers a second above 0, by calls at once from 1 on")
    calls = np.array(list(throughput), float)
    seconds = np.log(calls / np.array(list(throughput.values())))
    gains = _GAINS if form.gains else np.ones(1)
    losses = _LOSSES if form.loses else np.zeros(1)
    for _ in range(3):  # a grid, and twice a finer one around its best
        shapes = np.log(_shapes(calls, gains, losses, form.sharpness))
        apart = seconds - shapes
        scale = apart.mean(axis=-1, keepdims=True)
        errors = ((apart - scale) ** 2).sum(axis=-1)
        g, h = np.unravel_index(int(errors.argmin()), errors.shape)
        best = float(np.exp(scale[g, h, 0])), float(gains[g]), float(losses[h])
        gains, losses = _around(gains, int(g), 1.0), _around(losses, int(h), 0.0)
    alone, gain, loss = best
    return Curve(alone, gain, form.sharpness, loss)


def _shapes(calls: np.ndarray, gains: np.ndarray, losses: np.ndarray, sharpness: float) -> np.ndarray:
    """`_shape` for [gains, losses, calls]."""
    share = calls / gains[:, None]
    if math.isinf(sharpness):
        base = np.maximum(1.0, share)
    else:
        base = (1.0 - gains[:, None] ** -sharpness + share**sharpness) ** (1.0 / sharpness)
    return base[:, None, :] + (calls * (calls - 1.0))[None, None, :] * losses[None, :, None]


def _around(values: np.ndarray, at: int, least: float) -> np.ndarray:
    if len(values) == 1:
        return values
    low, high = values[max(at - 1, 0)], values[min(at + 1, len(values) - 1)]
    return np.unique(np.maximum(np.linspace(low, high, 41), least))
