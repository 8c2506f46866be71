"""Mask logits to polygons on a large picture: this project's way against upsampling the whole picture each time.

All ways take 50 objects on 12 megapixels, one after the other, on one core. The plain ways upsample to full size with
torch's F.interpolate (as SAM2's own code does) or with cv2.resize, then `> 0`, cv2.findContours, cv2.approxPolyDP.
Time is CPU time, the best of three; memory is the growth of the process's peak over everything, results included, in
a fresh process for each way.

    python bench/postprocess.py
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence

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


def print_stages() -> None:
    cv2.setNumThreads(1)
    objects = draw_objects()
    masks = [upsample_mask(logits, WIDTH, HEIGHT) for logits in objects]
    noise = np.random.default_rng(1).normal(size=(LOGITS, LOGITS)).astype(np.float32)
    ragged = upsample_mask(noise, WIDTH, HEIGHT)
    stages: dict[str, Callable[[], object]] = {
        "upsampling": lambda: [upsample_mask(logits, WIDTH, HEIGHT) for logits in objects],
        "exact polygons": lambda: [mask_to_polygons(mask, 0) for mask in masks],
        "simplified polygons": lambda: [mask_to_polygons(mask, PRECISION) for mask in masks],
        "RLE": lambda: [encode_rle(mask) for mask in masks],
        f"one mask of pure noise, {_parts(ragged)} parts, simplified": lambda: mask_to_polygons(
            ragged, PRECISION
        ),
    }
    for name, stage in stages.items():
        start = time.process_time()
        stage()
        print(f"  {name}: {(time.process_time() - start) * 1000:.0f} ms")


def _parts(mask: CroppedMask) -> int:
    return len(mask_to_polygons(mask, 0))


def main() -> None:
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        rows = [(way.__name__, *pool.apply(measure, (way,))) for way in (whole_torch, whole_opencv, cropped)]
    print(f"{OBJECTS} objects on {WIDTH}×{HEIGHT}, mask logits to polygons")
    for name, seconds, megabytes in rows:
        print(f"  {name:12} {seconds * 1000:6.0f} ms  {megabytes:4.0f} MB  {seconds / rows[-1][1]:5.1f} ×")
    print_stages()


if __name__ == "__main__":
    main()
