"""Ordinary calls, one at a time, while the server fetches twenty pictures that come a byte a second."""

from __future__ import annotations

import asyncio
import itertools

from bench.load.job import QUICK_URL_SECONDS, SLOW_SITES, Job
from bench.load.judge import codes, faults, latencies
from bench.load.loops import beside, closed_loop
from bench.load.parts.concurrency import milliseconds
from bench.load.wire import Sample
from bench.speed.results import Result, Row, Table
from florence2_sam2.server.settings import Settings

AT_MOST = 1.2
LATE_SECONDS = 1.0  # beyond the time that a fetch is given


def run(job: Job) -> Result:
    if job.running is not None:
        note = "The server is somebody else's: it would have to fetch from addresses of this script's own."
        return Result([], [Table("Slow URLs", ["not measured"], [], note)], {"unavailable": note})
    job.server()
    assert job.sites is not None
    slow_url, requests = job.sites.slow_url, job.requests
    given = QUICK_URL_SECONDS if job.bench.choices.quick else Settings().url_total_seconds
    rounds, calls = job.bench.times(3, 1), job.bench.times(40, 6, 4)
    alone: list[Sample] = []
    loaded: list[Sample] = []
    slow: list[Sample] = []

    async def one_round() -> None:
        async with job.wire() as wire:
            alone.extend(await closed_loop(wire, requests, 1, job.numbers(calls)))
            ours, theirs = await beside(
                *(wire, requests, job.numbers(calls)),
                *(lambda number: requests.of_url(slow_url(number)), SLOW_SITES, itertools.count()),
            )
            loaded.extend(ours)
            slow.extend(theirs)

    for _ in range(rounds):
        asyncio.run(one_round())
    before, after = latencies(alone), latencies(loaded)
    wrong = faults(alone + loaded) + [
        f"slow URL: {one.code}: {one.details}"
        for one in slow
        if one.code != "INVALID_ARGUMENT" or "image_url" not in one.details
    ]
    lines = [["without", *milliseconds(before)], [f"beside {SLOW_SITES} slow URLs", *milliseconds(after)]]
    note = f"{len(slow)} slow ones ended with {codes(slow)}."
    return Result(
        [
            Row(
                f"p95 of a call beside {SLOW_SITES} slow URLs, against without",
                after["p95"] / before["p95"],
                "×",
                AT_MOST,
                True,
            ),
            Row(
                "  the longest call with a slow URL",
                max(one.seconds for one in slow),
                "s",
                given + LATE_SECONDS,
                True,
            ),
            Row("calls that failed otherwise than they must", len(wrong), "calls", 0, at_most=True),
        ],
        [Table("Ordinary calls beside slow URLs", ["", "p50, ms", "p95, ms", "p99, ms"], lines, note)],
        {"without": before, "beside": after, "slow": [one.seconds for one in slow], "faults": wrong[:50]},
    )
