"""Mask logits to polygons on a large picture: this project's way against upsampling the whole picture each time.

All ways take 50 objects on 12 megapixels, one after the other, on one core. The plain ways upsample to full size with
torch's F.interpolate (as SAM2's own code does) or with cv2.resize, then `> 0`, cv2.findContours, cv2.approxPolyDP.
Time is CPU time, the best of three; memory is the growth of the process's peak over everything, results included, in
a fresh process for each way.

The masks are compared too: pixel by pixel with torch's, and for some objects with the project's own arithmetic on
the whole picture.

    python bench/postprocess.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from florence2_sam2.postprocess import CroppedMask, Polygon, encode_rle, mask_to_polygons, upsample_mask

WIDTH, HEIGHT = 4000, 3000
OBJECTS = 50
LOGITS = 256  # SAM2's mask size
PRECISION = 0.001
REPEATS = 3
EXACT = 5  # objects whose masks are compared with the same arithmetic on the whole picture

Logits = NDArray[np.float32]


def draw_objects() -> list[Logits]:
    """Discs with wavy borders, from 1 to 12 % of the picture's width in radius at first, with soft edges."""
    generator = np.random.default_rng(2026)
    yy, xx = np.mgrid[:LOGITS, :LOGITS].astype(np.float32)
    objects = []
    for _ in range(OBJECTS):
        x, y = generator.uniform(20, LOGITS - 20, 2)
        radius = generator.uniform(3, 30)
        noise = cv2.GaussianBlur(generator.normal(size=(LOGITS, LOGITS)).astype(np.float32), (0, 0), 3)
        objects.append(((radius - np.hypot(xx - x, yy - y)) * 0.6 + 12 * noise).astype(np.float32))
    return objects


def cropped(objects: Sequence[Logits]) -> list[list[Polygon]]:
    masks = [upsample_mask(logits, WIDTH, HEIGHT) for logits in objects]
    return [mask_to_polygons(mask, PRECISION) for mask in masks]


def whole_opencv(objects: Sequence[Logits]) -> list[list[NDArray[np.int32]]]:
    size = (WIDTH, HEIGHT)
    return [contours(cv2.resize(logits, size, interpolation=cv2.INTER_LINEAR) > 0) for logits in objects]


def whole_torch(objects: Sequence[Logits]) -> list[list[NDArray[np.int32]]]:
    torch.set_num_threads(1)
    results = []
    for logits in objects:
        batch = torch.from_numpy(logits)[None, None]
        full = torch.nn.functional.interpolate(batch, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)
        results.append(contours((full[0, 0] > 0).numpy()))
    return results


def contours(mask: NDArray[np.bool_]) -> list[NDArray[np.int32]]:
    found, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return [cv2.approxPolyDP(contour, PRECISION * cv2.arcLength(contour, True), True) for contour in found]


def measure(way: Callable[[Sequence[Logits]], object]) -> tuple[float, float]:
    """CPU seconds and megabytes."""
    cv2.setNumThreads(1)
    objects = draw_objects()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        results = way(objects)
        seconds.append(time.process_time() - start)
        del results
    return min(seconds), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def stages() -> dict[str, float]:
    """CPU milliseconds of the project's way, stage by stage."""
    cv2.setNumThreads(1)
    objects = draw_objects()
    masks = [upsample_mask(logits, WIDTH, HEIGHT) for logits in objects]
    noise = np.random.default_rng(1).normal(size=(LOGITS, LOGITS)).astype(np.float32)
    ragged = upsample_mask(noise, WIDTH, HEIGHT)
    work: dict[str, Callable[[], object]] = {
        "upsampling": lambda: [upsample_mask(logits, WIDTH, HEIGHT) for logits in objects],
        "exact polygons": lambda: [mask_to_polygons(mask, 0) for mask in masks],
        "simplified polygons": lambda: [mask_to_polygons(mask, PRECISION) for mask in masks],
        "RLE": lambda: [encode_rle(mask) for mask in masks],
        f"one mask of pure noise, {_parts(ragged)} parts, simplified": lambda: mask_to_polygons(
            ragged, PRECISION
        ),
    }
    spent = {}
    for name, stage in work.items():
        start = time.process_time()
        stage()
        spent[name] = 1e3 * (time.process_time() - start)
    return spent


def differing_pixels() -> dict[str, int]:
    """Pixels in which the project's masks of all objects differ from those of the whole picture at once: torch's, and
    of the first `EXACT` objects those of the same arithmetic."""
    found = {"torch": 0, "own arithmetic": 0}
    for number, logits in enumerate(draw_objects()):
        mask = upsample_mask(logits, WIDTH, HEIGHT).full()
        batch = torch.from_numpy(logits)[None, None]
        full = torch.nn.functional.interpolate(batch, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)
        found["torch"] += int((mask != (full[0, 0] > 0).numpy()).sum())
        if number < EXACT:
            found["own arithmetic"] += int((mask != whole(logits)).sum())
    return found


def whole(logits: Logits) -> NDArray[np.bool_]:
    """The mask by torch's definition of bilinear resizing, all pixels at once: horizontally, then vertically, FP32."""

    def axis(size: int, pixels: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        scale = np.float32(size) / np.float32(pixels)
        position = np.maximum(float(scale) * (np.arange(pixels) + 0.5) - 0.5, 0).astype(np.float32)
        low = position.astype(np.int64)
        return low, np.minimum(low + 1, size - 1), position - low.astype(np.float32)

    left, right, across = axis(logits.shape[1], WIDTH)
    top, bottom, down = axis(logits.shape[0], HEIGHT)
    wide = logits[:, left] * (1 - across) + logits[:, right] * across
    full = wide[top] * (1 - down)[:, None] + wide[bottom] * down[:, None]
    return np.asarray(full > 0)


def _parts(mask: CroppedMask) -> int:
    return len(mask_to_polygons(mask, 0))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write what was measured there")
    arguments = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        rows = [(way.__name__, *pool.apply(measure, (way,))) for way in (whole_torch, whole_opencv, cropped)]
        spent, differing = pool.apply(stages), pool.apply(differing_pixels)
    print(f"{OBJECTS} objects on {WIDTH}×{HEIGHT}, mask logits to polygons")
    for name, seconds, megabytes in rows:
        print(f"  {name:12} {seconds * 1000:6.0f} ms  {megabytes:4.0f} MB  {seconds / rows[-1][1]:5.1f} ×")
    for name, milliseconds in spent.items():
        print(f"  {name}: {milliseconds:.0f} ms")
    for name, pixels in differing.items():
        print(f"  pixels that differ from the whole picture at once, {name}: {pixels}")
    if arguments.json:
        ways = {name: {"seconds": seconds, "megabytes": mb} for name, seconds, mb in rows}
        told: dict[str, Any] = {"ways": ways, "stages_ms": spent, "differing_pixels": differing}
        arguments.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
