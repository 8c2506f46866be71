"""Plots of both scripts, and their sections of bench/RESULTS.md. Nothing is measured here."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.speed import machine, plots, report
from bench.speed.prepare import Subject
from bench.speed.results import Json, Ran

RESULTS = machine.ROOT / "bench" / "RESULTS.md"
PLOTS = machine.ROOT / "docs" / "pictures"
REMARKS = {
    "load": (
        "Each call has another picture, and the server keeps nothing of those before. Client and server share the"
        " cores. Times hold on this machine only; ratios and shares travel better."
    ),
    "soak": (
        "Slopes are the median of the slopes between all pairs of looks (Theil–Sen) after the first minute; the"
        " looks are a second apart."
    ),
}
LATENCIES = (("p50", "tab:green"), ("p95", "tab:orange"), ("p99", "tab:red"))

Painting = tuple[str, str, Callable[[], Any]]


def write(kind: str, path: Path, subject: Subject, pieces: Sequence[Ran]) -> None:
    """Replace the section of `kind` ("load" or "soak") for that subject, with its plots."""
    raw = {ran.piece: ran.result.raw for ran in pieces if not ran.error}
    drawn = plots.save(
        paintings(kind, subject.name, raw), PLOTS if path == RESULTS else path.parent / "pictures"
    )
    places = [(caption, os.path.relpath(plot, path.parent)) for caption, plot in drawn]
    body = report.section(subject.title, pieces, places, kind, REMARKS[kind])
    report.write_section(path, subject.name, body, kind)
    print(f"written into {path}", file=sys.stderr)


def paintings(kind: str, subject: str, raw: dict[str, Json]) -> list[Painting]:
    """The plots that there are values for."""
    wanted: list[tuple[str, str, str, str, Callable[[Any], Any]]] = [
        ("load", "concurrency", "points", "throughput and latency over callers at once", _concurrency),
        ("load", "rates", "points", "goodput, refusals and latency over offered load", _rates),
        ("soak", "soak", "looks", "memory, descriptors and threads over the soak", _soak),
    ]
    found: list[Painting] = []
    for of, piece, values, caption, paint in wanted:
        if of == kind and raw.get(piece, {}).get(values):
            name = f"{kind}-{subject}" + ("" if piece == kind else f"-{piece}")
            found.append((name, caption, _bound(paint, raw[piece])))
    return found


def _bound(paint: Callable[[Any], Any], values: Json) -> Callable[[], Any]:
    return lambda: paint(values)


def _concurrency(raw: Json) -> Any:
    figure, ((left, right),) = plots.panels(2)
    points = raw["points"]
    callers = [point["callers"] for point in points]
    left.plot(callers, [point["throughput"] for point in points], ".-")
    left.set_ylabel("answers a second")
    _percentiles(right, callers, points)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(callers, [str(count) for count in callers])
        axes.set_xlabel("callers at once")
        axes.set_ylim(bottom=0)
    return figure


def _rates(raw: Json) -> Any:
    figure, ((left, right),) = plots.panels(2)
    points = raw["points"]
    offered = [point["offered"] for point in points]
    left.plot(offered, [point["answered"] for point in points], ".-", color="tab:blue", label="answered")
    left.plot(offered, [point["refused"] for point in points], ".-", color="tab:grey", label="refused")
    left.axvline(raw["capacity"], color="black", linestyle=":", label="capacity")
    left.set_ylabel("calls a second")
    left.legend(fontsize=7)
    _percentiles(right, offered, points)
    for axes in (left, right):
        axes.set_xlabel("calls offered a second")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
    return figure


def _percentiles(axes: Any, places: Sequence[float], points: Sequence[Json]) -> None:
    for share, colour in LATENCIES:
        axes.plot(places, [1e3 * point[share] for point in points], ".-", color=colour, label=share)
    axes.set_ylabel("ms")
    axes.legend(fontsize=7)


def _soak(raw: Json) -> Any:
    figure, ((memory, shared), (files, threads)) = plots.panels(2, 2, height=4.5)
    looks = raw["looks"]
    minutes = [look["seconds"] / 60 for look in looks]
    for axes, named in (
        (memory, (("rss", "sum of RSS"), ("total", "each page once"))),
        (shared, (("shm", "/dev/shm"),)),
        (files, (("descriptors", "descriptors"),)),
        (threads, (("threads", "threads"),)),
    ):
        for name, label in named:
            axes.plot(minutes, [look[name] for look in looks], linewidth=0.8, label=label)
        axes.axvline(raw["warm"] / 60, color="black", linestyle=":")
        axes.set_ylim(bottom=0)
        axes.set_ylabel("MB" if axes in (memory, shared) else "")
        axes.legend(fontsize=7)
    for axes in (files, threads):
        axes.set_xlabel("minutes")
    return figure
