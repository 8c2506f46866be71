"""Large pictures of many small things: what the option `tiles` finds that a single look misses, and what it costs.

A picture is ACROSS×ACROSS scenes side by side, so that its things are a third as large as elsewhere in this bench.
Asked for is object detection, which needs no caption. Judged as elsewhere, but that a label names the kind alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import median
from typing import Any

import numpy as np

from bench.quality import scenes
from bench.quality.judge import Mark
from bench.quality.report import estimate, plain, table
from florence2_sam2.client import Segmentation, Segmenter
from florence2_sam2.training.scenes import Scene, SceneObject
from florence2_sam2.training.scoring import MASK_IOU, counts, mask_iou_matrix, match, size_class
from florence2_sam2.training.vocabulary import TABLE

ACROSS = 3
CELL = (426, 320)  # width, height of one scene, pixels
TILES = (1, 2, 3, 4)


@dataclass(frozen=True)
class Crowd:
    """What came of one picture with one number of tiles. Marks are 1 or 0; `seconds`: of the call."""

    tiles: int
    found: list[Mark]
    real: list[Mark]
    seconds: float


def draw(number: int, seed: int = scenes.SEED) -> Scene:
    """Picture `number`: the same whatever else is drawn, of scenes that nothing else asks about."""
    width, height = CELL
    image = np.empty((height * ACROSS, width * ACROSS, 3), np.uint8)
    objects: list[SceneObject] = []
    for index, (row, column) in enumerate(product(range(ACROSS), repeat=2)):
        part = scenes.draw(10**6 + number * ACROSS**2 + index, seed=seed, size=CELL)
        top, left = row * height, column * width
        image[top : top + height, left : left + width] = part.image
        for thing in part.objects:
            mask = np.zeros(image.shape[:2], bool)
            mask[top : top + height, left : left + width] = thing.mask
            box = thing.box + np.array([left, top, left, top], np.float32)
            objects.append(replace(thing, box=box, mask=mask))
    return Scene(image, objects, "", "")


def ask(segmenter: Segmenter, scene: Scene, tiles: int) -> tuple[Segmentation, float]:
    """The answer with that many tiles a side, greedily decoded, and its seconds."""
    began = time.perf_counter()
    answer = segmenter.segment(scene.image, task="detection", tiles=tiles, num_beams=1)
    return answer, time.perf_counter() - began


def judge(scene: Scene, answer: Segmentation, tiles: int, seconds: float) -> Crowd:
    """Tables are neither asked for nor held against the answer."""
    things = [thing for thing in scene.objects if thing.kind != TABLE]
    reports = [report for report in answer.objects if report.label != TABLE]
    overlap = mask_iou_matrix(
        np.stack([thing.mask for thing in things]),
        np.stack([report.mask() for report in reports])
        if reports
        else np.zeros((0, *scene.image.shape[:2]), bool),
    )
    right = np.array([[thing.kind == report.label for report in reports] for thing in things], bool)
    pairs = match(overlap, right.reshape(overlap.shape) & (overlap >= MASK_IOU))
    found, good = {row for row, _ in pairs}, {column for _, column in pairs}
    height, width = scene.image.shape[:2]
    return Crowd(
        tiles,
        [
            Mark(thing.kind, size_class(thing.box, width, height), False, float(index in found))
            for index, thing in enumerate(things)
            if counts(thing)
        ],
        [
            Mark(report.label, size_class(np.array(report.box), width, height), False, float(index in good))
            for index, report in enumerate(reports)
        ],
        seconds,
    )


def judge_crowds(address: str, count: int, seed: int) -> list[Crowd]:
    """All pictures with each number of tiles, one call at a time."""
    crowds = []
    with Segmenter(address) as segmenter:
        for number in range(count):
            scene = draw(number, seed)
            for tiles in TILES:
                answer, seconds = ask(segmenter, scene, tiles)
                crowds.append(judge(scene, answer, tiles, seconds))
    return crowds


def time_ratio(crowds: Sequence[Crowd], tiles: int) -> float:
    """Median over the pictures of a call's time with so many tiles, in times of the call without."""
    times = {n: [crowd.seconds for crowd in crowds if crowd.tiles == n] for n in (1, tiles)}
    return median(with_tiles / without for with_tiles, without in zip(times[tiles], times[1], strict=True))


def text(crowds: Sequence[Crowd]) -> str:
    """What tiles do for large pictures of many small things, as Markdown."""
    pictures = len(crowds) // len(TILES)
    lines = []
    for tiles in TILES:
        mine = [crowd for crowd in crowds if crowd.tiles == tiles]
        found, real = estimate([c.found for c in mine]), estimate([c.real for c in mine])
        lines.append([str(tiles), str(found), str(real), f"{time_ratio(crowds, tiles):.1f}x"])
    shown = "\n".join(table(["tiles a side", "found", "of what is reported, really there", "time"], lines))
    return (
        f"**Many small things: {pictures} pictures of {ACROSS}x{ACROSS} scenes, detection, with and without tiles**"
        f" (95 % intervals)\n\n{shown}"
    )


def to_json(crowds: Sequence[Crowd]) -> list[dict[str, Any]]:
    """The same as data."""
    return [
        {
            "tiles": tiles,
            "found": plain(estimate([c.found for c in crowds if c.tiles == tiles])),
            "real": plain(estimate([c.real for c in crowds if c.tiles == tiles])),
            "time": time_ratio(crowds, tiles),
        }
        for tiles in TILES
    ]
