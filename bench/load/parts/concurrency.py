"""One to sixteen callers, each asking again when it is answered: by perf_analyzer where it starts."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from bench.load.job import Job
from bench.load.judge import faults, kept_past_knee, knee, latencies, throughput
from bench.load.loops import closed_loop
from bench.speed import perf_analyzer
from bench.speed.pieces.perf_analyzer import STABLE_PERCENT, tables
from bench.speed.results import Json, Result, Row, Table

CALLERS = (1, 2, 4, 8, 16)
LEAST_KEPT = 0.9
PICTURES = 64  # in the tool's file, which it goes round


def run(job: Job) -> Result:
    job.server()
    tool = job.tool()
    points, shown, failed = _by_tool(job, tool) if tool else _by_ourselves(job)
    measured = {point["callers"]: point["throughput"] for point in points}
    result = Result(
        [Row(f"errors with {_callers(job)} callers", len(failed), "calls", 0, at_most=True)], shown
    )
    result.raw = {"points": points, "tool": tool is not None, "errors": failed}
    if measured:
        at = knee(measured)
        job.found(max(measured.values()), at)
        what = f"throughput from {at} callers on (the knee), the least against the best"
        result.rows += [
            Row(what, kept_past_knee(measured), "%", LEAST_KEPT),
            Row("capacity, the best throughput", max(measured.values()), "calls/s"),
        ]
    return result


def _callers(job: Job) -> str:
    chosen = _chosen(job)
    return f"{chosen[0]} to {chosen[-1]}"


def _chosen(job: Job) -> tuple[int, ...]:
    return CALLERS[:3] if job.bench.choices.quick else CALLERS


def _by_tool(job: Job, tool: perf_analyzer.Tool) -> tuple[list[Json], list[Table], list[str]]:
    """Points, tables, and errors in words: it ends at the first one, so a number of callers has one at most."""
    bench, quick = job.bench, job.bench.choices.quick
    bench.output.mkdir(parents=True, exist_ok=True)
    inputs = bench.output / "perf_analyzer-inputs.json"
    perf_analyzer.write_inputs(
        inputs, [job.requests.inputs(n) for n in job.numbers(4 if quick else PICTURES)]
    )
    stable = perf_analyzer.ANY_PERCENT if quick else STABLE_PERCENT
    measured, points, failed = [], [], []
    for callers in _chosen(job):
        requests = bench.times(max(40, 4 * callers), max(4, callers), 3)
        try:
            one = perf_analyzer.measure(tool, job.server(), inputs, callers, requests, stable)
        except RuntimeError as error:
            failed.append(str(error))
            continue
        measured.append(one)
        seconds = {f"p{share}": one.columns[f"p{share} latency"] / 1e6 for share in (50, 95, 99)}
        points.append({"callers": callers, "throughput": one.columns["Inferences/Second"], **seconds})
        bench.say(f"{callers} callers: {points[-1]['throughput']:.2f} a second")
    return points, tables(measured, "perf_analyzer over concurrency", stable) if measured else [], failed


def _by_ourselves(job: Job) -> tuple[list[Json], list[Table], list[str]]:
    """The same in a closed loop of our own."""
    points: list[Json] = []
    failed: list[str] = []

    async def measure() -> None:
        async with job.wire() as wire:
            for callers in _chosen(job):
                numbers = job.numbers(
                    job.bench.times(max(120, 8 * callers), max(12, 3 * callers), 2 * callers + 2)
                )
                samples = await closed_loop(wire, job.requests, callers, numbers)
                failed.extend(faults(samples))
                points.append({"callers": callers, "throughput": throughput(samples), **latencies(samples)})
                job.bench.say(f"{callers} callers: {points[-1]['throughput']:.2f} a second")

    asyncio.run(measure())
    head = ["callers", "answers a second", "p50, ms", "p95, ms", "p99, ms"]
    lines = [[f"{point['callers']}", f"{point['throughput']:.2f}", *milliseconds(point)] for point in points]
    note = "In a closed loop of our own, without perf_analyzer."
    return points, [Table("Callers at once", head, lines, note)], failed


def milliseconds(point: dict[str, Any]) -> list[str]:
    """The percentiles of a point as cells of a table; they are NaN where no call was answered."""
    seconds = [point[share] for share in ("p50", "p95", "p99")]
    return ["none" if math.isnan(one) else f"{1e3 * one:.0f}" for one in seconds]
