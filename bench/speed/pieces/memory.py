"""The server's memory while eight requests are worked on, and what an export takes."""

from __future__ import annotations

from bench.fullsize.sizes import FLORENCE2
from bench.fullsize.steps import Steps
from bench.speed.bench import Bench
from bench.speed.load import load
from bench.speed.memory import EVERY_SECONDS, server_processes, taken, watched
from bench.speed.results import Result, Row, Table

CALLERS = 8
MOST_GB, EXPORT_GB = 3.5, 8.0
FIRST = 40_000


def run(bench: Bench) -> Result:
    bench.stop_reference()
    bench.stop_server()
    server = bench.server()
    loaded = taken(server_processes(), server.shm_prefix)
    rounds = bench.times(2, 2, 1)
    pictures = bench.pictures(CALLERS * rounds, FIRST)
    with watched(server.shm_prefix) as peak:
        # The checkpoint's own number of beams, which for Florence-2 is three.
        load(lambda number: bench.segment(pictures[number])[1], CALLERS, rounds)
    at_peak = peak.at_peak
    target = MOST_GB if bench.subject.is_full else None
    rows = [
        Row(
            f"server memory, {CALLERS} requests at once, PSS and /dev/shm",
            at_peak.total / 1024,
            "GB",
            target,
            True,
        )
    ]
    rows += export_rows(bench)
    table = Table(
        "Memory of the server's processes, MB",
        ["when", "PSS", "/dev/shm", "each page once"],
        [
            ["ready", *(f"{value:.0f}" for value in vars(loaded).values())],
            [f"peak of {CALLERS * rounds} requests", *(f"{value:.0f}" for value in vars(at_peak).values())],
        ],
        f"Looked at {peak.looks} times, {EVERY_SECONDS:g} s apart. Default settings, the checkpoint's own beams.",
    )
    return Result(rows, [table], {"loaded": vars(loaded), "peak": vars(at_peak), "looks": peak.looks})


def export_rows(bench: Bench) -> list[Row]:
    """The largest export of the subject's, from the steps of bench/fullsize."""
    if bench.subject.steps is None:
        return []
    name = f"export {next(iter(FLORENCE2))}"
    measured = Steps(bench.subject.steps).done.get(name)
    if measured is None:  # the export has come from elsewhere
        return []
    return [Row(f"{name}, peak memory of its process", measured.peak_mb / 1024, "GB", EXPORT_GB, True)]
