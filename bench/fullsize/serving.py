"""A picture through a real server, and through `bench/reference.py`, each a step of its own.

    python -m bench.fullsize.serving reference FLORENCE2 SAM2 PICTURE OUT.npz [masks]
    python -m bench.fullsize.serving serve REPOSITORY PICTURE REFERENCE.npz REPORT.json

With random weights a caption is noise that never ends, and grounding it gives no sensible box: the caption is cut at
`NEW_TOKENS` and compared as text, and the masks are those of `BOXES`. With `masks` no caption is written.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from florence2_sam2.server.launch.processes import children

NEW_TOKENS = 40
BOXES = np.array([[0.1, 0.2, 0.5, 0.6], [0.4, 0.3, 0.9, 0.95], [0.05, 0.5, 0.3, 0.9]])  # of width and height
READY_SECONDS = 1800.0  # the large ones, on a busy machine
KEEP_ALL = {"area_threshold": 1.0, "confidence_threshold": 0.0, "nms_threshold": 1.0}


def boxes_of(rgb: NDArray[np.uint8]) -> list[list[float]]:
    height, width = rgb.shape[:2]
    rows: list[list[float]] = (BOXES * [width, height, width, height]).tolist()
    return rows


def write_reference(florence2: Path, sam2: Path, picture: Path, output: Path, caption: bool = True) -> None:
    from bench.reference import Reference

    rgb = np.asarray(Image.open(picture).convert("RGB"))
    plain = Reference(florence2, sam2)
    written = {}
    if caption:
        written = {"caption": plain.segment(rgb, max_new_tokens=NEW_TOKENS, **KEEP_ALL).caption}
    masks = plain.segment(rgb, boxes=boxes_of(rgb), **KEEP_ALL)
    np.savez_compressed(output, masks=masks.masks, scores=masks.scores, **written)


def serve(repository: Path, picture: Path, reference: Path, report: Path) -> None:
    from florence2_sam2.client import Segmenter
    from florence2_sam2.postprocess.rle import decode_rle
    from florence2_sam2.server.launch.embedded import EmbeddedServer
    from florence2_sam2.server.settings import Settings

    rgb = np.asarray(Image.open(picture).convert("RGB"))
    expected = np.load(reference)
    told: dict[str, Any] = {}
    started = time.perf_counter()
    server = EmbeddedServer(
        repository, settings=Settings(memory_bytes=0)
    )  # the second call is to cost all again
    try:
        server.start()
        server.wait_ready(READY_SECONDS)
        told["ready_seconds"] = time.perf_counter() - started
        told["loaded"] = memory_mb()
        with Segmenter(server.grpc_address, timeout=1800) as segmenter:
            if "caption" in expected:
                for name in ("first_seconds", "again_seconds"):
                    started = time.perf_counter()
                    answer = segmenter.segment(rgb, max_new_tokens=NEW_TOKENS, **KEEP_ALL)
                    told[name] = time.perf_counter() - started
                told["timings_ms"] = dict(answer.timings_ms)
                told["caption"] = answer.caption
                told["caption_equal"] = answer.caption == str(expected["caption"])
            started = time.perf_counter()
            # Outlines of noise take longer than those of any object: run lengths and the flattened mask instead.
            masked = segmenter.segment(
                rgb, boxes=boxes_of(rgb), output_mask=True, formats=["rle"], **KEEP_ALL
            )
            told["boxes_seconds"] = time.perf_counter() - started
        told["used"] = memory_mb()
    finally:
        server.stop()
    masks = np.array([decode_rle(item.rle or {}) for item in masked.objects])
    scores = np.array([item.score for item in masked.objects])
    told["iou"] = ious(masks, expected["masks"])
    told["score_error"] = float(np.abs(scores - expected["scores"]).max())
    report.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def ious(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> list[float]:
    """IoU of each pair of masks [N,H,W]; 1 where both are empty."""
    pairs = zip(one, other, strict=True)
    return [float((a & b).sum() / (a | b).sum()) if (a | b).any() else 1.0 for a, b in pairs]


def memory_mb() -> dict[str, float]:
    """Memory of the server's processes: theirs now (shared pages divided), and the sum of their peaks."""
    now = peak = 0
    for pid in descendants(os.getpid()):
        folder = Path("/proc") / str(pid)
        try:
            now += kilobytes(folder / "smaps_rollup", "Pss:")
            peak += kilobytes(folder / "status", "VmHWM:")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
    return {"now_mb": round(now / 1024), "peak_mb": round(peak / 1024)}


def kilobytes(path: Path, field: str) -> int:
    """The number behind `field` in a file of /proc, all lines of that name together."""
    return sum(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(field))


def descendants(pid: int) -> list[int]:
    """Process ids of the children of `pid`, of their children, and so on."""
    found = children(pid)
    return found + [below for child in found for below in descendants(child)]


def main(arguments: list[str]) -> None:
    kind, *rest = arguments
    if kind == "serve":
        serve(*map(Path, rest))
    else:
        write_reference(*map(Path, rest[:4]), caption="masks" not in rest[4:])


if __name__ == "__main__":
    main(sys.argv[1:])
