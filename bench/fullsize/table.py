"""What the steps measured, as markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.fullsize.sizes import FLORENCE2
from bench.fullsize.steps import Steps
from florence2_sam2.server import manifest

Line = Sequence[str]


def describe(steps: Steps, exports: Iterable[str], pairs: Iterable[tuple[str, str]], left_out: Line) -> str:
    """All tables of a folder, those without a finished step left out."""
    sections = [
        _export_table(steps, exports),
        _serving_table(steps, pairs),
        _precision_table(steps),
        *left_out,
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def export_facts(repository: Path, name: str) -> dict[str, Any]:
    """File sizes and parity of a finished export, from its manifest, and which export it is the fp16 form of."""
    half = "florence2" if any(name.startswith(known) for known in FLORENCE2) else "sam2"
    read = {"florence2": manifest.read_florence2, "sam2": manifest.read_sam2}[half]
    exported = read(repository)
    files = {file: (repository / file).stat().st_size / 1e6 for file in exported.files}
    worst = max(exported.parity.items(), key=lambda item: item[1].max_abs_error / item[1].tolerance)
    return {
        "files_mb": files,
        "largest_error": max(row.max_abs_error for row in exported.parity.values()),
        "nearest_to_tolerance": [worst[0], worst[1].max_abs_error, worst[1].tolerance],
        "passed": all(row.max_abs_error <= row.tolerance for row in exported.parity.values()),
    }


def _export_table(steps: Steps, exports: Iterable[str]) -> str:
    rows = []
    for name in exports:
        measured, facts = steps.done.get(f"export {name}"), steps.told(f"export {name}")
        if measured is None or facts is None:
            continue
        files = facts["files_mb"]
        rows.append(
            (
                name,
                f"{measured.seconds:.0f} s",
                f"{measured.cpu_seconds:.0f} s",
                f"{measured.peak_mb / 1024:.1f} GB",
                " + ".join(f"{size:.0f}" for size in files.values()) + f" = {sum(files.values()):.0f} MB",
                f"{facts['largest_error']:.1e}",
            )
        )
    head = ("export", "time", "processor time", "peak memory", "files", "largest error")
    return _markdown(head, rows)


def _serving_table(steps: Steps, pairs: Iterable[tuple[str, str]]) -> str:
    rows = []
    for florence2, sam2 in pairs:
        told = steps.told(f"serve {florence2} {sam2}")
        if told is None:
            continue
        rows.append(
            (
                f"{florence2} + {sam2}",
                f"{told['ready_seconds']:.0f} s",
                f"{told['used']['now_mb'] / 1024:.1f} GB ({told['used']['peak_mb'] / 1024:.1f})",
                f"{told['again_seconds']:.1f} s" if "caption" in told else "",
                f"{told['boxes_seconds']:.1f} s",
                ("equal" if told["caption_equal"] else "DIFFERS") if "caption" in told else "",
                f"{min(told['iou']):.4f}",
                f"{told['score_error']:.0e}",
            )
        )
    head = (
        "served",
        "to ready",
        "memory (sum of peaks)",
        "caption + grounding, 40 tokens each",
        "3 boxes → masks",
        "caption",
        "smallest mask IoU",
        "score error",
    )
    return _markdown(head, rows)


def _precision_table(steps: Steps) -> str:
    rows = [
        (
            row["graph"].removesuffix("/model.onnx").removesuffix("/1"),
            row["output"],
            f"{row['max_abs']:.1e}",
            f"{row['relative']:.1e}",
            row["agreement"],
        )
        for name in steps.done
        if name.startswith("compare ")
        for row in _rows(steps.told(name))
    ]
    return _markdown(
        ("fp16 beside fp32", "output", "largest error", "of the largest value", "seen by users"), rows
    )


def _rows(told: Any) -> list[Mapping[str, Any]]:
    return told or []


def _markdown(head: Line, rows: Sequence[Line]) -> str:
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
