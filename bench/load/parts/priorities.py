"""Interactive calls, one at a time, beside bulk ones that saturate the server."""

from __future__ import annotations

import asyncio
import itertools

from bench.load.job import Job
from bench.load.judge import codes, faults, latencies, throughput
from bench.load.loops import Make, beside, closed_loop
from bench.load.parts.concurrency import milliseconds
from bench.load.wire import REFUSED, Sample
from bench.speed.results import Json, Result, Row, Table

# More than are worked on at once, fewer than the queue takes beside: it is never empty, and never full.
SATURATING = 24
# More than both: some bulk calls are refused all the time.
OVERFLOWING = 64
QUICK_SATURATING, QUICK_OVERFLOWING = 6, 14
AT_MOST = 2.0
FIRST = 10**6  # numbers of bulk calls


def run(job: Job) -> Result:
    quick = job.bench.choices.quick
    rounds, calls = job.bench.times(2, 1), job.bench.times(50, 12, 4)
    saturating, overflowing = (QUICK_SATURATING, QUICK_OVERFLOWING) if quick else (SATURATING, OVERFLOWING)
    bulk = job.requests.with_settings(priority="bulk")
    alone: list[Sample] = []
    loaded: list[Sample] = []
    bulks: list[Sample] = []
    theirs: list[Sample] = []
    for _ in range(rounds):
        alone += asyncio.run(_alone(job, calls))
        ours, theirs = asyncio.run(_beside(job, calls, bulk, saturating))
        loaded, bulks = loaded + ours, bulks + theirs
    flooded, flood = asyncio.run(_beside(job, calls, bulk, overflowing))
    lines = [
        _line("alone", alone),
        _line(f"beside {saturating} bulk callers", loaded),
        _line(f"beside {overflowing} bulk callers, whose calls overflow the queue", flooded),
    ]
    wrong = faults(alone + loaded) + faults(flooded + bulks + flood, [REFUSED])
    refused = sum(one.refused for one in flooded)
    note = f"Meanwhile {throughput(theirs):.2f} bulk calls a second were answered."
    return Result(
        [
            Row(
                "interactive p95 beside bulk calls, against alone",
                _ratio(lines[1], lines[0]),
                "×",
                AT_MOST,
                True,
            ),
            Row(
                f"  refused of {len(flooded)} interactive calls while bulk ones overflow the queue",
                refused,
                "calls",
            ),
            Row("calls that failed", len(wrong), "calls", 0, at_most=True),
        ],
        [_table(lines, note)],
        {"lines": lines, "bulk": codes(bulks), "flood": codes(flood), "faults": wrong},
    )


async def _alone(job: Job, calls: int) -> list[Sample]:
    async with job.wire() as wire:
        return await closed_loop(wire, job.requests, 1, job.numbers(calls))


async def _beside(job: Job, calls: int, bulk: Make, callers: int) -> tuple[list[Sample], list[Sample]]:
    async with job.wire() as wire:
        return await beside(wire, job.requests, job.numbers(calls), bulk, callers, itertools.count(FIRST))


def _line(what: str, samples: list[Sample]) -> Json:
    return {"what": what, "calls": len(samples), **latencies(samples)}


def _ratio(above: Json, below: Json) -> float:
    return float(above["p95"] / below["p95"])


def _table(lines: list[Json], note: str) -> Table:
    head = ["interactive calls", "how many", "p50, ms", "p95, ms", "p99, ms"]
    rows = [[line["what"], str(line["calls"]), *milliseconds(line)] for line in lines]
    return Table("Interactive calls beside bulk ones", head, rows, note)
