"""The table of figures, and its section in `bench/RESULTS.md`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

from bench.agreement.judge import Compared, figures, smallest_iou, without_partner
from bench.quality.report import search, table
from florence2_sam2.server.manifest import Source

BEGIN, END = "<!-- scripts/agreement: begin -->", "<!-- scripts/agreement: end -->"


def agreement_table(compared: Mapping[int, Sequence[Compared]]) -> str:
    """A Markdown table with a column for each number of beams."""
    measured = [figures(scenes) for scenes in compared.values()]
    lines = [[what, *(str(column[what]) for column in measured)] for what in measured[0]]
    lines.append(["smallest IoU of a box", *(f"{smallest_iou(scenes):.3f}" for scenes in compared.values())])
    alone = (" / ".join(map(str, without_partner(scenes))) for scenes in compared.values())
    lines.append(["boxes that only fp32 / only int8 has", *alone])
    return "\n".join(table(["int8 decoder beside fp32", *map(search, compared)], lines))


def section(checkpoint: Source, scenes: int, today: date, text: str) -> str:
    """The section between its markers."""
    name = f"{checkpoint.checkpoint} ({checkpoint.sha256[:12]})"
    return "\n".join(
        [
            BEGIN,
            f"## The 8-bit decoder beside fp32 ({today.isoformat()}, {machine()})",
            "",
            f"`scripts/agreement`: checkpoint {name}, {scenes} drawn scenes that nothing was trained on.",
            "Shares and means with 95 % intervals (bootstrap over scenes). Boxes are those of the true caption, in",
            "thousandths of a side, as the model writes them.",
            "",
            text,
            END,
        ]
    )


def machine() -> str:
    """Processor, cores and onnxruntime of this machine, as far as they decide what is written."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    cores = len(os.sched_getaffinity(0))
    return f"{next(names, 'unknown processor')}, {cores} cores, onnxruntime {version('onnxruntime')}"


def put(file: Path, text: str) -> None:
    """Put a section in place of the one between the markers, or at the end of the file.

    Raises:
        ValueError: the file has one marker without the other, or more than one of them.
    """
    before = file.read_text(encoding="utf-8")
    counts = before.count(BEGIN), before.count(END)
    if counts == (0, 0):
        after = f"{before.rstrip()}\n\n{text}\n"
    elif counts == (1, 1) and before.index(BEGIN) < before.index(END):
        head, _, rest = before.partition(BEGIN)
        after = f"{head}{text}{rest.partition(END)[2]}"
    else:
        raise ValueError(f"{file} has not one pair of {BEGIN} and {END}")
    file.write_text(after, encoding="utf-8")
