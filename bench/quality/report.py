"""From judged scenes to figures with intervals, targets, tables and JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np

from bench.quality.judge import Mark, reasons
from bench.quality.run import Judged
from florence2_sam2.training.scoring import BOX_IOU, LARGEST, MASK_IOU, SIZES
from florence2_sam2.training.statistics import Estimate, clustered

MIN_KIND = 10  # things of a kind; with fewer, nothing is said about the worst kind
KINDS_SHOWN = 12

Marks = Sequence[Sequence[Mark]]
"""The marks of each scene."""


@dataclass(frozen=True)
class Row:
    """One line of the table of targets. `at_most`: the target is an upper limit."""

    what: str
    target: float
    measured: Estimate
    at_most: bool = False

    @property
    def met(self) -> bool:
        """Of the measured value; what could not be measured is not met."""
        value = self.measured.value
        return value <= self.target if self.at_most else value >= self.target


def estimate(marks: Marks) -> Estimate:
    """Mean of the marks with a bootstrap interval over the scenes."""
    return clustered([[m.value for m in scene] for scene in marks])


def grouped(marks: Marks, key: Callable[[Mark], str]) -> dict[str, Estimate]:
    """An estimate for each group that `key` names, by name."""
    names = sorted({key(m) for scene in marks for m in scene})
    return {name: estimate([[m for m in scene if key(m) == name] for scene in marks]) for name in names}


def recall(marks: Marks) -> list[list[Mark]]:
    """1 where the matched box overlaps enough, else 0."""
    return [[Mark(m.kind, m.size, m.unseen, float(m.value > BOX_IOU)) for m in scene] for scene in marks]


def worst_kind(marks: Marks) -> tuple[str, Estimate]:
    """The kind with the lowest estimate among those with at least MIN_KIND marks."""
    kinds = {k: e for k, e in grouped(marks, lambda m: m.kind).items() if e.count >= MIN_KIND}
    if not kinds:
        return "none has enough", Estimate(math.nan, math.nan, math.nan, 0)
    return min(kinds.items(), key=lambda item: item[1].value)


def rows(judged: Sequence[Judged], beams: int) -> list[Row]:
    """The table of targets for one number of beams. Masks from true boxes do not depend on it."""
    seen = [j for j in judged if not j.held_out]
    located = [j.grounding[beams] for j in seen]
    unseen = [[m for m in j.grounding[beams] if m.unseen] for j in judged if j.held_out]
    name, worst = worst_kind(recall(located))
    return [
        Row("grounding recall, true caption", 0.95, estimate(recall(located))),
        Row(f"  the worst kind ({name})", 0.80, worst),
        Row("  unseen kind-colour pairs", 0.85, estimate(recall(unseen))),
        Row(
            "mean IoU of matched boxes",
            0.85,
            estimate([[m for m in s if m.value > BOX_IOU] for s in located]),
        ),
        Row("masks from true boxes, mean IoU", 0.93, estimate([j.masks for j in seen])),
        Row("  distance of score and true IoU", 0.04, estimate([j.score_errors for j in seen]), at_most=True),
        Row(
            f"end to end, found (mask IoU >= {MASK_IOU})",
            0.90,
            estimate([j.end_to_end[beams].found for j in seen]),
        ),
        Row(
            "end to end, share of reports that is there",
            0.95,
            estimate([j.end_to_end[beams].real for j in seen]),
        ),
    ]


def details(judged: Sequence[Judged], beams: Sequence[int]) -> dict[str, Marks]:
    """The measures that are also shown by kind and by size, by their column's heading."""
    seen = [j for j in judged if not j.held_out]
    columns: dict[str, Marks] = {}
    for b in beams:
        columns[f"grounded, {search(b)}"] = recall([j.grounding[b] for j in seen])
    columns["mask IoU"] = [j.masks for j in seen]
    for b in beams:
        columns[f"found, {search(b)}"] = [j.end_to_end[b].found for j in seen]
        columns[f"real, {search(b)}"] = [j.end_to_end[b].real for j in seen]
    return columns


def search(beams: int) -> str:
    return "greedy" if beams == 1 else f"{beams} beams"


def report_text(judged: Sequence[Judged], beams: Sequence[int]) -> str:
    """Everything measured, as Markdown."""
    parts = []
    for b in beams:
        lines = [f"**{search(b).capitalize()}**", ""]
        lines += table(
            ["what", "target", "measured (95 % interval)", "met"],
            [
                [
                    r.what,
                    f"{'<=' if r.at_most else '>='} {r.target:.2f}",
                    str(r.measured),
                    "yes" if r.met else "NO",
                ]
                for r in rows(judged, b)
            ],
        )
        parts.append("\n".join(lines))
    columns = details(judged, beams)
    kinds = {name: grouped(marks, lambda m: m.kind) for name, marks in columns.items()}
    sizes = {name: grouped(marks, lambda m: m.size) for name, marks in columns.items()}
    first = next(iter(kinds.values()))
    order = sorted(first, key=lambda k: fmean(c[k].value for c in kinds.values() if k in c))
    parts.append(
        f"**The {min(KINDS_SHOWN, len(order))} worst kinds** (share or mean, number; all are in the JSON file)\n\n"
        + "\n".join(_cross("kind", order[:KINDS_SHOWN], kinds))
    )
    parts.append(
        "**By longer side, as a fraction of the picture's**\n\n"
        + "\n".join(_cross("size", [*(name for _, name in SIZES), LARGEST], sizes))
    )
    parts.append(
        "**Whether a report's scores tell that it is really there** (area under the ROC curve; 0.5 tells nothing)\n\n"
        + "\n".join(_telling(judged, beams))
    )
    parts.append("**What went wrong, end to end**\n\n" + "\n".join(_faults(judged, beams)))
    return "\n\n".join(parts)


def to_json(judged: Sequence[Judged], beams: Sequence[int]) -> dict[str, Any]:
    """All numbers: the rows by search, by kind, by size, and what became of each scene."""
    columns = details(judged, beams)
    seen = [j for j in judged if not j.held_out]
    return {
        "targets": {
            search(b): [
                {
                    "what": r.what.strip(),
                    "target": r.target,
                    "at_most": r.at_most,
                    "met": r.met,
                    **plain(r.measured),
                }
                for r in rows(judged, b)
            ]
            for b in beams
        },
        "found with the caption's very phrase": {
            search(b): plain(estimate([j.end_to_end[b].found_by_phrase for j in seen])) for b in beams
        },
        "by kind": {n: _all_plain(grouped(m, lambda x: x.kind)) for n, m in columns.items()},
        "by size": {n: _all_plain(grouped(m, lambda x: x.size)) for n, m in columns.items()},
        "scores tell": {search(b): telling(judged, b) for b in beams},
        "faults": {
            search(b): {
                "missed": reasons([f for j in seen for f in j.end_to_end[b].missed]),
                "wrong": reasons([f for j in seen for f in j.end_to_end[b].wrong]),
            }
            for b in beams
        },
        "scenes": [_scene(j, beams) for j in judged],
    }


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table, its columns aligned for reading in a terminal."""
    cells = [list(head), *map(list, lines)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    text = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    return [text[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *text[1:]]


SCORES = {
    "grounding_score": lambda sure: sure.grounding_score,
    "score": lambda sure: sure.score,
    "their product": lambda sure: sure.grounding_score * sure.score,
}


def telling(judged: Sequence[Judged], beams: int) -> dict[str, float | None]:
    """For each score the area under the ROC curve of right against wrong reports; None where there is only one kind."""
    reports = [sure for j in judged if not j.held_out for sure in j.end_to_end[beams].sure]
    right = np.array([sure.real for sure in reports], bool)
    return {
        name: roc_area(np.array([score(sure) for sure in reports]), right) for name, score in SCORES.items()
    }


def roc_area(scores: np.ndarray, right: np.ndarray) -> float | None:
    """The chance that a right report [N] has a higher score [N] than a wrong one, ties half (Mann and Whitney's U)."""
    above, below = scores[right], scores[~right]
    if not (len(above) and len(below)):
        return None
    difference = above[:, None] - below[None]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def _telling(judged: Sequence[Judged], beams: Sequence[int]) -> list[str]:
    areas = {b: telling(judged, b) for b in beams}
    shown = [[name, *(_area(areas[b][name]) for b in beams)] for name in SCORES]
    return table(["score", *map(search, beams)], shown)


def _area(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _cross(what: str, names: Sequence[str], columns: dict[str, dict[str, Estimate]]) -> list[str]:
    def cell(column: dict[str, Estimate], name: str) -> str:
        return f"{column[name].value:.2f} ({column[name].count})" if name in column else "-"

    return table([what, *columns], [[n, *(cell(c, n) for c in columns.values())] for n in names])


def _faults(judged: Sequence[Judged], beams: Sequence[int]) -> list[str]:
    seen = [j for j in judged if not j.held_out]
    counted = {}
    for b in beams:
        missed = reasons([f for j in seen for f in j.end_to_end[b].missed])
        wrong = reasons([f for j in seen for f in j.end_to_end[b].wrong])
        counted[b] = {f"missed: {k}": v for k, v in missed.items()} | {
            f"reported: {k}": v for k, v in wrong.items()
        }
    names = sorted(
        {n for c in counted.values() for n in c}, key=lambda n: -max(c.get(n, 0) for c in counted.values())
    )
    return table(
        ["fault", *map(search, beams)], [[n, *(str(counted[b].get(n, 0)) for b in beams)] for n in names]
    )


def _scene(judged: Judged, beams: Sequence[int]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "number": judged.number,
        "held_out": judged.held_out,
        "caption": judged.caption,
        "box_iou": {search(b): [round(m.value, 4) for m in judged.grounding[b]] for b in beams},
    }
    if not judged.held_out:
        row["mask_iou"] = [round(m.value, 4) for m in judged.masks]
        row["end_to_end"] = {
            search(b): {
                "caption": judged.answers[b]["caption"],
                "found": sum(m.value == 1 for m in judged.end_to_end[b].found),
                "of": len(judged.end_to_end[b].found),
                "faults": [f.text for f in (*judged.end_to_end[b].missed, *judged.end_to_end[b].wrong)],
            }
            for b in beams
        }
    return row


def plain(value: Estimate) -> dict[str, Any]:
    """JSON has no NaN: what was not measured is null."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(value).items()}


def _all_plain(values: dict[str, Estimate]) -> dict[str, Any]:
    return {name: plain(value) for name, value in values.items()}
