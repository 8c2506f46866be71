"""The section of bench/RESULTS.md with its plot, and the tables of docs/deployment.md. Nothing is measured here."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.sizing import budget, servers
from bench.sizing.curve import SHARP, Curve
from bench.sizing.gpus import GPUS
from bench.sizing.model import PLACES, QUEUE, Server
from bench.speed import plots, report
from bench.speed.results import Json, Ran

KIND = "sizing"
ROOT = Path(__file__).parents[2]
RESULTS, PLOTS, DEPLOYMENT = (
    ROOT / "bench" / "RESULTS.md",
    ROOT / "docs" / "pictures",
    ROOT / "docs" / "deployment.md",
)
REMARK = (
    "A model of one server as a queue (`bench/sizing`), fitted to a part of what was measured and held against the"
    " rest: no figure of it is itself a measurement but those named so."
)
GAINS = (1.0, 1.5, 2.0, 4.0)
LIMITS = (2.0, 3.0, 5.0)  # of the 95th percentile, in times of a call alone
RATES = (1, 5, 10, 50, 100)
SECONDS = (0.1, 0.5, 2.0, 8.0)
EXAMPLE_GAIN, EXAMPLE_LIMIT = 2.0, 3.0
BALANCED, BALANCED_LOADS = 4, (0.5, 0.7, 0.85)
GPU_HEAD = [
    *("GPU", "one call, ms", "calls/s at most", "caches on the GPU: one call, ms"),
    *("caches on the GPU: calls/s at most", "memory, GB", "sequences that fit"),
]


def write_results(path: Path, title: str, name: str, pieces: Sequence[Ran]) -> None:
    """Replace the section for what is called `name`, with its plot."""
    raw = next((ran.result.raw for ran in pieces if ran.piece == "model" and not ran.error), None)
    paintings = (
        []
        if raw is None
        else [(f"sizing-{name}", "what was measured and what the model predicts", lambda: _plot(raw))]
    )
    drawn = plots.save(paintings, PLOTS if path == RESULTS else path.parent / "pictures")
    places = [(caption, os.path.relpath(plot, path.parent)) for caption, plot in drawn]
    report.write_section(path, name, report.section(title, pieces, places, KIND, REMARK), KIND)


def _plot(raw: Json) -> Any:
    figure, ((left, right),) = plots.panels(2)
    curve, points = Curve(**raw["curve"]), raw["points"]
    server = Server(curve)
    callers = [point["callers"] for point in points]
    left.plot(callers, [point["throughput"] for point in points], "o", color="tab:blue", label="measured")
    steps = range(1, max(callers) + 1)
    left.plot(
        steps, [server.closed(count).answered for count in steps], "-", color="tab:orange", label="model"
    )
    left.set_xscale("log", base=2)
    left.set_xticks(callers, [str(count) for count in callers])
    left.set_xlabel("callers at once")
    left.set_ylabel("answers a second")
    offered = [point["offered"] for point in raw["rates"]]
    for share, colour in (("p50", "tab:green"), ("p95", "tab:red")):
        right.plot(
            offered, [point[share] for point in raw["rates"]], "o", color=colour, label=f"{share}, measured"
        )
        right.plot(
            offered, [point[share] for point in raw["predicted"]], "-", color=colour, label=f"{share}, model"
        )
    right.set_xlabel("calls offered a second")
    right.set_ylabel("s")
    right.set_xlim(left=0)
    for axes in (left, right):
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7)
    return figure


def write_deployment(path: Path = DEPLOYMENT) -> None:
    """Replace both tables.

    Raises:
        NoMarkers: the page has no place for one.
    """
    for name, body in (("servers", servers_block()), ("gpus", gpus_block())):
        report.write_section(path, name, body, KIND)


def servers_block() -> str:
    """How much of a load one server takes, and how many servers loads need."""
    highest = {
        (gain, sharpness, limit): servers.highest_rate(Server(Curve(1.0, gain, sharpness)), limit)
        for gain in GAINS
        for sharpness in (SHARP, 1.0)
        for limit in LIMITS
    }
    lines = [
        [
            f"{gain:g}",
            *(f"{highest[gain, SHARP, limit]:.2f}" for limit in LIMITS),
            *(f"{highest[gain, 1.0, limit]:.2f}" for limit in LIMITS),
        ]
        for gain in GAINS
    ]
    head = [
        "gain g",
        *(f"p95 ≤ {limit:g} T1" for limit in LIMITS),
        *(f"in a batch, p95 ≤ {limit:g} T1" for limit in LIMITS),
    ]
    taken = highest[EXAMPLE_GAIN, SHARP, EXAMPLE_LIMIT]
    needed = [
        [f"{seconds:g} s", *(f"{math.ceil(round(rate * seconds / taken, 9))}" for rate in RATES)]
        for seconds in SECONDS
    ]
    shared = Server(Curve(1.0, EXAMPLE_GAIN))
    policies = [
        [policy, *(f"{_balanced(shared, load, policy):.1f}" for load in BALANCED_LOADS)]
        for policy in ("random", "round robin", "least connections")
    ]
    return "\n\n".join(
        [
            "Calls that one server takes in the time T1 of a call alone:",
            report.markdown(head, lines),
            f"Servers that a rate needs, where g is {EXAMPLE_GAIN:g} and p95 is to be at most {EXAMPLE_LIMIT:g} T1:",
            report.markdown(["T1", *(f"{rate} call{'s' * (rate > 1)}/s" for rate in RATES)], needed),
            f"What the way of sharing calls among {BALANCED} such servers gives, p95 in T1:",
            report.markdown(
                ["at a share of the capacity of", *(f"{load:g}" for load in BALANCED_LOADS)],
                policies,
            ),
            f"Server: {PLACES} calls at once, {QUEUE} may wait; square of deviation by mean of a call's time alone"
            f" {servers.VARIATION:g}.",
        ]
    )


def _balanced(server: Server, load: float, policy: str) -> float:
    rate = load * server.capacity * BALANCED
    return servers.p95(server, rate, servers=BALANCED, policy=policy)


def gpus_block() -> str:
    """Every GPU with everything that was counted."""
    parts = []
    for served, work in budget.works().items():
        for precision in ("fp16", "fp32"):
            lines = []
            for gpu in GPUS:
                machine = budget.Machine.of(gpu, precision)
                one = budget.budget(work, machine)
                fits = one.memory <= machine.memory
                lines.append(
                    [
                        gpu.name,
                        *(
                            f"{1e3 * one.seconds_as_is:.0f}",
                            f"{one.rate_as_is:.1f}",
                            f"{1e3 * one.seconds:.0f}",
                            f"{one.rate:.1f}",
                        ),
                        *(f"{one.memory / 1e9:.1f}" + ("" if fits else ", too much"), f"{one.sequences}"),
                    ]
                )
            parts += [f"{served}, {precision}:", report.markdown(GPU_HEAD, lines)]
    return "\n\n".join(parts)
