"""The formula of the estimates for GPUs where times are known: on the CPU whose peaks and times scripts/bench has
measured.

With all shares at 1 and nothing for launches it gives the least time that each graph could take; what was measured
says which shares of the peaks are reached there. That is no proof for a GPU: it shows that the counted work is
right, and how far from the peaks such graphs stay where it was seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.sizing.budget import ASSUMED, DECODERS, ROWS, Assumed, Machine, graph_seconds, works
from bench.speed.figures import Spread
from bench.speed.results import Ran, Result, Row, Table

SERVED = "Florence-2-base + SAM2.1-hiera-tiny"  # what scripts/bench --full measures
IDEAL = Assumed(arithmetic=1.0, memory=1.0, launch=0.0, step=0.0, host=0.0, contexts=0.0)


class NoRoofline(Exception):
    """There is nothing to compare with; the message says what is needed."""


def run(speed: Path) -> tuple[Result, Ran]:
    """The comparison, and the run that it is about. `speed`: where scripts/bench --full has kept its values.

    Raises:
        NoRoofline: there is no roofline of full-size checkpoints.
    """
    try:
        source = Ran.read(speed / "roofline.json")
        rounds, parts = source.result.raw["rounds"], source.result.raw["components"]
        measured = {part["name"]: float(part["seconds"]["median"]) for part in parts}
        peaks = {name: Spread.of([one[name] for one in rounds]).median for name in ("flops", "bandwidth")}
    except (OSError, ValueError, TypeError, KeyError):
        raise NoRoofline(
            f"{speed}: there is no result of the piece roofline; run scripts/bench --full first"
        ) from None
    components = works()[SERVED]["components"]
    if {part["name"] for part in components} != measured.keys():
        raise NoRoofline(f"{speed}: its roofline is not of {SERVED}; run scripts/bench --full for it")
    machine = Machine(**peaks)
    lines, least, assumed, whole = [], 0.0, 0.0, 0.0
    for part in components:
        ideal, stated = (part["runs"] * graph_seconds(part, machine, shares) for shares in (IDEAL, ASSUMED))
        seconds = measured[part["name"]]
        lines.append(
            [part["name"], *_milliseconds(seconds, ideal), f"{ideal / seconds:.2f}", *_milliseconds(stated)]
        )
        least, assumed, whole = least + ideal, assumed + stated, whole + seconds
    lines.append(
        ["all graphs", *_milliseconds(whole, least), f"{least / whole:.2f}", *_milliseconds(assumed)]
    )
    note = (
        f"At {peaks['flops'] / 1e9:.0f} GFLOP/s and {peaks['bandwidth'] / 1e9:.0f} GB/s, the best measured beside it."
        f" For GPUs shares of {ASSUMED.arithmetic:g} (arithmetic) and {ASSUMED.memory:g} (memory) are assumed: the"
        " last column has them."
    )
    head = [
        "graph, all its runs",
        "measured, ms",
        "formula at the peaks, ms",
        "share of the peaks",
        "with the shares assumed, ms",
    ]
    rows = [
        *_together(speed, {part["name"]: part for part in components}, machine),
        Row(
            "the GPU formula at this CPU's peaks, against the measured time of all graphs",
            least / whole,
            "share",
        ),
        Row("  with the shares that are assumed for GPUs", assumed / whole, "×"),
    ]
    raw = {"peaks": peaks, "measured": measured, "least": least, "assumed": assumed}
    return Result(rows, [Table("The GPU formula on this CPU, full size", head, lines, note)], raw), source


def _together(speed: Path, components: Mapping[str, Any], machine: Machine) -> list[Row]:
    """What sequences gain by decoding together, which has no share of a peak in it; empty where it was not measured."""
    try:
        steps = Ran.read(speed / "decoding.json").result.raw["steps"]
        one, many = (Spread.of(steps[str(count)]).median for count in (1, ROWS))
    except (OSError, ValueError, TypeError, KeyError):
        return []
    part = components[DECODERS[0]]
    formula = graph_seconds(part, machine, IDEAL, ROWS) / ROWS / graph_seconds(part, machine, IDEAL)
    what = f"a token and sequence of {ROWS} together, against one alone"
    return [
        Row(f"{what}: the formula", formula, "share"),
        Row(f"{what}: measured", many / ROWS / one, "share"),
    ]


def _milliseconds(*seconds: float) -> list[str]:
    return [f"{1e3 * one:.0f}" for one in seconds]
