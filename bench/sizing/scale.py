"""Throughput as servers are added: one server on one core, two with a core each, one on both, in turns.

Each is asked by a closed loop that keeps it busy. Nothing is shared between the servers but what a machine shares:
memory's bandwidth, the last cache, and the cores on which this script asks.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bench.load.job import FIRST
from bench.load.judge import faults, latencies, throughput
from bench.load.loops import closed_loop
from bench.load.wire import Requests, Sample, Wire
from bench.speed import pictures
from bench.speed.figures import Spread, paired_ratio
from bench.speed.prepare import Subject
from bench.speed.results import Result, Row, Table
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.settings import Settings

CALLERS = 4  # of each server: more than keep a core busy
ROUNDS, SECONDS = 3, 12.0
QUICK_ROUNDS, QUICK_SECONDS = 1, 3.0
PICTURES = 32
READY_SECONDS = 300.0


class TooFewCores(RuntimeError):
    """There is nothing to put a second server on."""


@dataclass(frozen=True)
class Round:
    """One way of serving for some seconds: answers a second, seconds of calls, processor seconds of the asking
    process for each answer, calls that failed."""

    throughput: float
    p50: float
    p95: float
    asking: float
    failed: list[str]


@contextmanager
def on_cores(cores: Sequence[int]) -> Iterator[None]:
    """What is started within runs on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run(subject: Subject, quick: bool = False) -> Result:
    """
    Raises:
        TooFewCores: this process may use only one.
    """
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise TooFewCores("two servers need two cores, and this process may use only one")
    files = [pictures.picture(FIRST + number, *subject.picture_size) for number in range(PICTURES)]
    make = Requests(files, subject.request)
    rounds, seconds = (QUICK_ROUNDS, QUICK_SECONDS) if quick else (ROUNDS, SECONDS)
    with ExitStack() as stack:
        addresses = [stack.enter_context(_served(subject, kept)) for kept in (cores[:1], cores[1:], cores)]
        ways = {
            "one server, one core": addresses[:1],
            "two servers, a core each": addresses[:2],
            "one server, two cores": addresses[2:],
        }
        found: dict[str, list[Round]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            for name, asked in ways.items():
                one = asyncio.run(measure(asked, make, seconds if number else min(seconds, 3.0)))
                if number:  # the first time warms up
                    found[name].append(one)
    return judged(found, rounds, seconds)


@contextmanager
def _served(subject: Subject, cores: Sequence[int]) -> Iterator[str]:
    """The address of a server on these cores, which keeps nothing of pictures before."""
    server = EmbeddedServer(subject.repository, settings=Settings(memory_bytes=0))
    try:
        with on_cores(cores):
            server.start()
        server.wait_ready(READY_SECONDS)
    except BaseException:
        server.kill()
        raise
    try:
        yield server.grpc_address
    finally:
        server.stop()


async def measure(addresses: Sequence[str], make: Requests, seconds: float) -> Round:
    """CALLERS callers ask each of the servers for that long."""
    stop, began = asyncio.Event(), time.process_time()

    async def ask(address: str, first: int) -> list[Sample]:
        async with Wire(address) as wire:
            return await closed_loop(wire, make, CALLERS, range(first, first + 1_000_000), stop)

    loops = [asyncio.create_task(ask(address, at * 1_000_000)) for at, address in enumerate(addresses)]
    await asyncio.sleep(seconds)
    stop.set()
    each = await asyncio.gather(*loops)
    samples = [sample for one in each for sample in one]
    spent = time.process_time() - began
    times = latencies(samples)
    return Round(
        sum(map(throughput, each)), times["p50"], times["p95"], spent / max(len(samples), 1), faults(samples)
    )


def judged(found: dict[str, list[Round]], rounds: int, seconds: float) -> Result:
    """`found`: the rounds of one server on one core, of two with a core each, and of one on two, in this order."""
    alone, two, wide = ([each.throughput for each in one] for one in found.values())
    both, against = paired_ratio(two, alone), paired_ratio(wide, two)
    one, asking = (
        Spread.of(values).median for values in (alone, [each.asking for each in list(found.values())[1]])
    )
    # A core of one server alone leaves the other to those who ask; two servers leave them none.
    predicted = 2.0 / (1.0 + asking * one)
    failed = [fault for each in found.values() for ran in each for fault in ran.failed]
    rows = [
        Row(
            "two servers, a core each, against one on one core",
            both.value,
            "×",
            None,
            False,
            both.low,
            both.high,
        ),
        Row("  predicted: twice as much, less what asking takes", predicted, "×"),
        Row(
            "one server on two cores, against two with a core each",
            against.value,
            "×",
            None,
            False,
            against.low,
            against.high,
        ),
        Row("calls that failed while servers were added", len(failed), "calls", 0, at_most=True),
    ]
    lines = [
        [
            name,
            " / ".join(f"{ran.throughput:.2f}" for ran in each),
            f"{1e3 * Spread.of([ran.p50 for ran in each]).median:.0f}",
            f"{1e3 * Spread.of([ran.p95 for ran in each]).median:.0f}",
            f"{1e3 * Spread.of([ran.asking for ran in each]).median:.1f}",
        ]
        for name, each in found.items()
    ]
    note = (
        f"{rounds} rounds of {seconds:.0f} s each in turns, {CALLERS} callers for each server."
        " What asks is not tied to a core: beside one server it has the other core to itself."
    )
    head = ["", "answers a second, by round", "p50, ms", "p95, ms", "asking, ms of a core a call"]
    raw = {name: [vars(ran) for ran in each] for name, each in found.items()}
    return Result(rows, [Table("Servers added on one machine", head, lines, note)], raw)
