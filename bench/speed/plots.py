"""Plots of what was measured, as small SVG files: drawn from the kept values, nothing is measured here."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.speed.results import Ran

STAGES = ("decode", "caption", "ground", "embed", "masks", "postprocess")
SWEEPS = ("boxes", "megapixels", "words of the caption")


def draw(subject: str, pieces: Sequence[Ran], folder: Path) -> list[tuple[str, Path]]:
    """The plots that `pieces` have values for: caption and file of each. Without matplotlib there are none."""
    raw = {ran.piece: ran.result.raw for ran in pieces if not ran.error}
    paintings = []
    for name, caption, needed, paint in (
        ("sides", "times side by side with the reference", ("side",), _sides),
        ("roofline", "measured time and roofline of each component", ("roofline",), _roofline),
        ("sweeps", "cost against boxes, pixels, caption and callers", ("sweeps",), _sweeps),
        ("decoding", "a decoder step against the number of sequences", ("decoding",), _decoding),
    ):
        if all(raw.get(piece) for piece in needed):
            values = [raw[piece] for piece in needed]
            paintings.append((f"speed-{subject}-{name}", caption, functools.partial(paint, *values)))
    return save(paintings, folder)


def save(paintings: Sequence[tuple[str, str, Callable[[], Any]]], folder: Path) -> list[tuple[str, Path]]:
    """Caption and file of each painting, given as the file's name, its caption, and what makes the figure. Without
    matplotlib there are none."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        print("no plots: matplotlib is not installed (the extra [bench] has it)", file=sys.stderr)
        return []
    matplotlib.use("Agg")
    drawn = []
    for name, caption, paint in paintings:
        # Text stays text, and names inside the file do not change from run to run.
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9})
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.svg"
        paint().savefig(path, metadata={"Date": None})
        drawn.append((caption, path))
    return drawn


def panels(columns: int = 1, rows: int = 1, width: float = 7.0, height: float = 3.0) -> tuple[Any, Any]:
    """A figure, sides in inches, and its axes [rows][columns]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _sides(raw: dict[str, Any]) -> Any:
    figure, ((axes,),) = panels(height=0.8 + 0.8 * len(raw))
    places, labels = [], []
    for row, (search, times) in enumerate(raw.items()):
        for offset, (side, colour) in enumerate((("reference", "tab:grey"), ("served", "tab:blue"))):
            place = 2.5 * row + offset
            axes.boxplot(
                [times[side]],
                positions=[place],
                orientation="horizontal",
                widths=0.7,
                patch_artist=True,
                boxprops={"facecolor": colour},
                medianprops={"color": "black"},
            )
            places.append(place)
            labels.append(f"{side}, {search}")
    axes.set_yticks(places, labels)
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds for one request")
    return figure


def _roofline(raw: dict[str, Any]) -> Any:
    parts = raw["components"]
    figure, ((axes,),) = panels(height=0.8 + 0.35 * len(parts))
    names = [part["name"] for part in parts]
    measured = [1e3 * part["seconds"]["median"] for part in parts]
    limits = [1e3 * part["limit"] for part in parts]
    axes.barh(names, measured, color="tab:blue", label="measured")
    axes.barh(names, limits, color="tab:orange", height=0.4, label="roofline")
    axes.invert_yaxis()
    axes.set_xlabel("ms of one greedy request")
    axes.legend()
    return figure


def _sweeps(raw: dict[str, Any]) -> Any:
    figure, axes = panels(2, 2, height=5.5)
    for place, what in zip(axes.flat, SWEEPS, strict=False):
        points = raw[what]
        values = [point["x"] for point in points]
        stages = [[point["stages_ms"][name] for point in points] for name in STAGES]
        place.stackplot(values, stages, labels=STAGES)
        place.plot(values, [1e3 * point["seconds"] for point in points], "k.-", label="seen by the client")
        place.set_xscale("log")
        place.set_xticks(values, [f"{value:g}" for value in values])
        place.minorticks_off()
        place.set_xlabel(what)
        place.set_ylabel("ms")
        place.set_ylim(bottom=0)
    axes.flat[0].legend(fontsize=7)
    points, last = raw["callers"], axes.flat[3]
    callers = [point["x"] for point in points]
    last.plot(
        callers, [point["throughput"] / points[0]["throughput"] for point in points], ".-", label="throughput"
    )
    last.plot(callers, [point["p95"] / points[0]["p95"] for point in points], ".-", label="p95")
    last.set_xlabel("callers at once")
    last.set_ylabel("against one caller")
    last.set_ylim(bottom=0)
    last.legend(fontsize=7)
    return figure


def _decoding(raw: dict[str, Any]) -> Any:
    figure, ((axes,),) = panels(width=4.5)
    counts = [int(count) for count in raw["steps"]]
    medians = [sorted(values)[len(values) // 2] for values in raw["steps"].values()]
    axes.plot(counts, [step / count / medians[0] for step, count in zip(medians, counts, strict=True)], ".-")
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xlabel("sequences")
    axes.set_ylabel("time of a token and sequence,\nagainst one alone")
    axes.set_ylim(bottom=0)
    return figure
