"""Calls that come at random, a quarter to four times as many as the server can answer: goodput and refusals."""

from __future__ import annotations

import asyncio

from bench.load.job import Job
from bench.load.judge import Point, goodput_kept, poisson
from bench.load.loops import open_loop
from bench.load.parts.concurrency import milliseconds
from bench.speed import perf_analyzer
from bench.speed.results import Json, Result, Row, Table

SHARES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
QUICK_SHARES = (0.5, 4.0)
# Of the capacity: what random arrivals never fill the queue with. One refusal ends the tool.
TOOL_SHARES = (0.25, 0.5, 0.75)
LEAST_GOODPUT = 0.9
SEED = 1
# The beginning of an open loop is not counted: the queue has to fill first.
WARM_SHARE = 0.25


def run(job: Job) -> Result:
    capacity = job.capacity()
    shares = QUICK_SHARES if job.bench.choices.quick else SHARES
    # As long as the capacity's answers to that many calls take, whatever the rate.
    seconds = max(job.bench.times(150, 24, 12) / capacity, 3.0)
    points = [(share, asyncio.run(measure(job, share * capacity, seconds))) for share in shares]
    raw = [{"share": share, **point.as_json()} for share, point in points]
    kept = goodput_kept([point for _, point in points])
    wrong = sum(point.faults for _, point in points)
    result = Result(
        [
            Row(f"goodput at {shares[-1]:g}× the capacity, against the best", kept, "%", LEAST_GOODPUT),
            Row("calls that got neither an answer nor UNAVAILABLE", wrong, "calls", 0, at_most=True),
        ],
        [_table(raw, seconds)],
        {"points": raw, "capacity": capacity, "seconds": seconds},
    )
    if (tool := job.tool()) is not None:
        result.raw["tool"] = found = _by_tool(job, tool, capacity, raw)
        result.tables += [_tool_table(found)] if found else []
    return result


async def measure(job: Job, rate: float, seconds: float) -> Point:
    """What the server does with that many calls a second."""
    arrivals = poisson(rate, seconds, SEED)
    async with job.wire() as wire:
        samples = await open_loop(wire, job.requests, arrivals, job.numbers(len(arrivals)).start)
    point = Point.of(samples, WARM_SHARE * seconds, seconds)
    job.bench.say(
        f"{point.offered:.2f} calls a second: {point.answered:.2f} answered, {point.refused:.2f} refused"
    )
    return point


def _table(points: list[Json], seconds: float) -> Table:
    head = [
        *("of the capacity", "calls a second", "answered", "refused", "p50, ms", "p95, ms", "p99, ms"),
        *("slowest refusal, ms", "sent late by, ms"),
    ]
    lines = [
        [
            f"{point['share']:g}×",
            *(f"{point[name]:.2f}" for name in ("offered", "answered", "refused")),
            *milliseconds(point),
            f"{1e3 * point['slowest_refusal']:.0f}" if point["refused"] else "",
            f"{1e3 * point['late']:.0f}",
        ]
        for point in points
    ]
    note = (
        f"Calls at random moments (Poisson), each with another picture, for {seconds:.0f} s, of which the first"
        f" {100 * WARM_SHARE:.0f} % are not counted. Latencies are of answered calls, from the moment a call was due."
    )
    return Table("Offered load, by the project's own open loop", head, lines, note)


def _by_tool(job: Job, tool: perf_analyzer.Tool, capacity: float, points: list[Json]) -> list[Json]:
    """perf_analyzer's figures at the lower rates, beside our own."""
    inputs = job.bench.output / "perf_analyzer-inputs.json"
    job.bench.output.mkdir(parents=True, exist_ok=True)
    perf_analyzer.write_inputs(inputs, [job.requests.inputs(number) for number in job.numbers(64)])
    found = []
    for share in TOOL_SHARES:
        ours = next((point for point in points if point["share"] == share), None)
        if ours is None:
            continue
        requests = job.bench.times(40, 6, 3)
        try:
            one = perf_analyzer.measure_rate(tool, job.server(), inputs, share * capacity, requests)
        except RuntimeError as error:  # random arrivals have filled the queue after all
            job.bench.say(str(error))
            break
        seconds = {f"p{of}": one.columns[f"p{of} latency"] / 1e6 for of in (50, 95, 99)}
        answered = one.columns["Inferences/Second"]
        found.append({"share": share, "answered": answered, **seconds, "ours": ours["p50"]})
        job.bench.say(f"perf_analyzer at {share:g}×: {answered:.2f} a second")
    return found


def _tool_table(points: list[Json]) -> Table:
    head = [
        "of the capacity",
        "answered a second",
        "p50, ms",
        "p95, ms",
        "p99, ms",
        "p50 of our own loop, ms",
    ]
    lines = [
        [
            f"{point['share']:g}×",
            f"{point['answered']:.2f}",
            *milliseconds(point),
            f"{1e3 * point['ours']:.0f}",
        ]
        for point in points
    ]
    note = "perf_analyzer 2.51.0 ends at the first refusal and cannot be told to go on: higher rates need our own loop."
    return Table("perf_analyzer over request rates (Poisson)", head, lines, note)
