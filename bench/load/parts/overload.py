"""Two hundred calls at the same moment on a queue of 32, and how fast a single call is before and after."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from bench.load.job import Job
from bench.load.judge import codes, faults, slowest_refusal
from bench.load.loops import closed_loop, open_loop
from bench.load.wire import REFUSED, Sample
from bench.speed.figures import Spread, paired_ratio
from bench.speed.results import Result, Row, Table

AT_ONCE = 200
QUICK_AT_ONCE = 24
REFUSAL_SECONDS = 2.0
AS_FAST = 1.1  # another run of the same call differs by less


def run(job: Job) -> Result:
    at_once = QUICK_AT_ONCE if job.bench.choices.quick else AT_ONCE
    rounds, singles = job.bench.times(3, 1), job.bench.times(15, 4, 3)
    before: list[float] = []
    after: list[float] = []
    bursts: list[list[Sample]] = []
    wrong: list[str] = []

    async def single(seconds: list[float]) -> None:
        async with job.wire() as wire:
            samples = await closed_loop(wire, job.requests, 1, job.numbers(singles))
        wrong.extend(faults(samples))
        seconds.append(Spread.of([one.seconds for one in samples]).median)

    async def burst() -> list[Sample]:
        async with job.wire() as wire:
            return await open_loop(wire, job.requests, [0.0] * at_once, job.numbers(at_once).start)

    for _ in range(rounds):
        asyncio.run(single(before))
        bursts.append(asyncio.run(burst()))
        wrong += faults(bursts[-1], [REFUSED])
        asyncio.run(single(after))
        job.bench.say(f"{at_once} at once: {codes(bursts[-1])}")
    refused = max(slowest_refusal(burst) for burst in bursts)
    ratio = paired_ratio(after, before)
    what = f"of {at_once} at once"
    return Result(
        [
            Row(
                f"calls {what} that got neither an answer nor UNAVAILABLE",
                len(wrong),
                "calls",
                0,
                at_most=True,
            ),
            Row(f"slowest UNAVAILABLE {what}", refused, "s", REFUSAL_SECONDS, at_most=True),
            Row(
                "a single call afterwards, against before",
                ratio.value,
                "×",
                AS_FAST,
                True,
                ratio.low,
                ratio.high,
            ),
        ],
        [_table(bursts, before, after)],
        {
            "codes": dict(sum((Counter(codes(burst)) for burst in bursts), Counter())),
            "before": before,
            "after": after,
            "faults": wrong,
        },
    )


def _table(bursts: Sequence[Sequence[Sample]], before: Sequence[float], after: Sequence[float]) -> Table:
    head = [
        "round",
        "answered",
        "refused",
        "slowest refusal, ms",
        "last answer, s",
        "single before / after, ms",
    ]
    lines = [
        [
            str(number),
            str(sum(one.answered for one in burst)),
            str(sum(one.refused for one in burst)),
            f"{1e3 * slowest_refusal(burst):.0f}",
            f"{max(one.seconds for one in burst):.1f}",
            f"{1e3 * was:.0f} / {1e3 * became:.0f}",
        ]
        for number, (burst, was, became) in enumerate(zip(bursts, before, after, strict=True), 1)
    ]
    return Table("Calls at the same moment", head, lines)
