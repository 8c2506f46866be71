"""Minutes of mixed requests to a real server at the knee: nothing may grow, and each call must end as it should.

Different pictures, settings and formats, streams, HTTP, wrong ones, cancelled ones, calls without enough time, and
client processes that are killed while the server works for them. Once a second memory, descriptors, threads and shared
memory of the server's processes are looked at. The first minute is for what is taken once and kept.

Exit status: 0 all bounds kept, 1 one missed, 2 the soak itself failed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.arguments import positive
from bench.load import asked, dying, judge, mix, options, report, trend
from bench.load.job import FIRST
from bench.load.loops import closed_loop
from bench.load.sites import Sites
from bench.load.watch import Look, Watch
from bench.load.wire import Requests, Wire
from bench.speed import machine, prepare
from bench.speed.bench import Bench, Choices
from bench.speed.recording import recorded
from bench.speed.report import terminal
from bench.speed.results import Result, Row, Table

SECONDS, QUICK_SECONDS = 300, 6
WARM_SECONDS = 60.0
PICTURES = 400
# Of what pictures have cost: full after a few of them. How far it grows by design is not what is looked for.
MEMORY_BYTES = 32 * 2**20
SEED = 1
DEATH_SECONDS = 8.0  # from one client's death to the next one's start
CALLERS = (1, 2, 4, 8)  # among which the knee is looked for
MB_A_MINUTE = 1.0
# A slope of less than one in the whole soak is none.
A_MINUTE = 0.2
REST_SECONDS = 3.0  # for connections to be closed at the end


@dataclass(frozen=True)
class Plan:
    """`callers` None: as many as the knee has."""

    seconds: float = SECONDS
    callers: int | None = None
    seed: int = SEED
    quick: bool = False

    @property
    def warm(self) -> float:
        """Seconds that are not judged: a minute, but a quick soak has no more than a third of its time."""
        return min(WARM_SECONDS, self.seconds / 3)


def soak(bench: Bench, plan: Plan) -> Result:
    """Load a server of its own for `plan.seconds`."""
    files = asked.pictures(24 if plan.quick else PICTURES)
    with Sites(0, files) as sites, tempfile.TemporaryDirectory() as folder:
        server = bench.server(url_allow=sites.allowed, memory_bytes=MEMORY_BYTES)
        callers = plan.callers or asyncio.run(_knee(bench, server.grpc_address))
        picture = Path(folder) / "picture"
        picture.write_bytes(files[0])
        calls = mix.Mix(server.grpc_address, server.http_address, files, sites)
        with Watch(server.shm_prefix) as watch:
            before = watch.now()
            deaths = asyncio.run(_load(calls, plan, callers, server.grpc_address, picture))
            time.sleep(REST_SECONDS)
            after = watch.now()
        return result_of(watch.looks, calls.tally, plan, callers, deaths, before, after)


async def _knee(bench: Bench, address: str) -> int:
    """How many callers saturate the server."""
    requests = Requests(bench.pictures(bench.times(64, 16, 8), FIRST), bench.subject.request)
    found, number = {}, itertools.count()
    async with Wire(address) as wire:
        for callers in CALLERS[:2] if bench.choices.quick else CALLERS:
            numbers = itertools.islice(number, bench.times(40, 12, 2 * callers + 2))
            found[callers] = judge.throughput(await closed_loop(wire, requests, callers, numbers))
            bench.say(f"{callers} callers: {found[callers]:.2f} answers a second")
    return judge.knee(found)


async def _load(calls: mix.Mix, plan: Plan, callers: int, address: str, picture: Path) -> int:
    """Let callers call until the time is over; how many clients were killed meanwhile."""
    loop = asyncio.get_running_loop()
    end = loop.time() + plan.seconds
    if not plan.quick:
        await calls.fill(callers + dying.AT_ONCE)

    async def caller(number: int) -> None:
        random_ = random.Random(1000 * plan.seed + number)
        while loop.time() < end:
            await calls.one(random_)

    async def killer() -> int:
        random_ = random.Random(plan.seed)
        pause = min(DEATH_SECONDS, plan.seconds / 4)
        for killed in itertools.count():
            await asyncio.sleep(pause)
            if loop.time() >= end:
                return killed
            await _kill_a_client(address, picture, random_.uniform(0, 0.5))
        raise AssertionError("counting does not end")

    deadly = asyncio.create_task(killer())
    await asyncio.gather(*(caller(number) for number in range(callers)))
    deaths = await deadly
    await calls.close()
    return deaths


async def _kill_a_client(address: str, picture: Path, after: float) -> None:
    """Start a client, and kill it that many seconds after it has sent its calls."""
    client = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", dying.__name__, address, str(picture)),
        stdout=asyncio.subprocess.PIPE,
        cwd=machine.ROOT,
        env={**os.environ, "PYTHONPATH": str(machine.ROOT)},
    )
    try:
        assert client.stdout is not None
        said = await asyncio.wait_for(client.stdout.readline(), 60)
        if said != b"sent\n":
            raise RuntimeError("a client that was to be killed did not begin")
        await asyncio.sleep(after)
    finally:
        with contextlib.suppress(ProcessLookupError):
            client.kill()
        await client.wait()


def result_of(
    looks: Sequence[Look], tally: mix.Tally, plan: Plan, callers: int, deaths: int, before: Look, after: Look
) -> Result:
    """What the looks and the calls say. `before`, `after`: looks while nothing was asked."""
    seconds = [one.seconds for one in looks if one.seconds <= plan.seconds]
    within = looks[: len(seconds)]

    def growth(name: str) -> float:
        return trend.growth(seconds, [getattr(one, name) for one in within], plan.warm)

    lost = set(before.processes) - set(after.processes)
    rows = [
        Row("calls that ended otherwise than they must", len(tally.faults), "calls", 0, True),
        Row("processes of the server that ended", len(lost), "", 0, True),
        Row("growth of the sum of RSS", growth("rss"), "MB/min", MB_A_MINUTE, True),
        Row("growth of memory, each page once", growth("total"), "MB/min", MB_A_MINUTE, True),
        Row("growth of /dev/shm", growth("shm"), "MB/min", A_MINUTE, True),
        Row("growth of its regions", growth("regions"), "/min", A_MINUTE, True),
        Row("growth of descriptors", growth("descriptors"), "/min", A_MINUTE, True),
        Row("growth of threads", growth("threads"), "/min", A_MINUTE, True),
    ]
    head = ["", "RSS, MB", "each page once, MB", "/dev/shm, MB", "regions", "descriptors", "threads"]
    warmed = next(one for one in within if one.seconds >= plan.warm)
    lines = [
        [
            what,
            *(
                f"{value:.0f}"
                for value in (one.rss, one.total, one.shm, one.regions, one.descriptors, one.threads)
            ),
        ]
        for what, one in (
            ("before", before),
            (f"after {plan.warm:.0f} s", warmed),
            (f"after {plan.seconds:.0f} s", within[-1]),
            ("at rest again", after),
        )
    ]
    kinds = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in sorted(tally.calls.items()))
    note = (
        f"{tally.calls.total()} calls of {callers} callers in {plan.seconds:.0f} s, and {deaths} clients killed at"
        f" work: {kinds}."
    )
    tables = [Table("What the server's processes hold", head, lines, note)]
    if after.private:
        tables.append(_by_process(seconds, within, plan.warm, after))
    if tally.faults:
        tables.append(Table("Calls that ended otherwise", ["what"], [[fault] for fault in tally.faults[:20]]))
    raw = {
        "looks": [one.as_json() for one in looks],
        "warm": plan.warm,
        "callers": callers,
        "deaths": deaths,
        "calls": dict(tally.calls),
        "faults": tally.faults,
        "before": before.as_json(),
        "after": after.as_json(),
    }
    return Result(rows, tables, raw)


def _by_process(seconds: Sequence[float], within: Sequence[Look], warm: float, after: Look) -> Table:
    """Which process it is that grows."""
    lines = []
    for name in after.private:
        held = [one.private.get(name, 0.0) for one in within]
        late = [value for at, value in zip(seconds, held, strict=True) if at >= warm]
        lines.append(
            [
                name.partition(" ")[2],
                f"{late[0]:.0f}",
                f"{min(late):.0f}",
                f"{max(late):.0f}",
                f"{late[-1]:.0f}",
                f"{trend.growth(seconds, held, warm):+.2f}",
            ]
        )
    head = ["process", f"after {warm:.0f} s, MB", "least", "most", "at the end", "growth, MB/min"]
    return Table("Private memory of each process", head, lines)


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _options(arguments)
    subject = prepare.small(chosen.model_repository)
    output = chosen.output / subject.name
    plan = Plan(
        chosen.seconds or (QUICK_SECONDS if chosen.quick else SECONDS),
        chosen.callers,
        chosen.seed,
        chosen.quick,
    )
    bench = Bench(subject, output, Choices(chosen.quick))
    settings = {"subject": subject.name, "seconds": plan.seconds, "seed": plan.seed, "quick": plan.quick}
    try:
        ran = recorded("soak", settings, lambda: soak(bench, plan), bench.close)
    finally:
        bench.close()
    ran.write(output)
    print(terminal(f"{subject.title}{f' ({options.QUICK})' if plan.quick else ''}", [ran]))
    print(f"\nall values: {output}", file=sys.stderr)
    if ran.error:
        return 2
    if not (chosen.no_results or plan.quick):
        if plan.seconds < SECONDS or chosen.model_repository:
            print(
                f"{chosen.results} stays as it is: it has {SECONDS} s of the packaged models", file=sys.stderr
            )
        else:
            report.write("soak", chosen.results, subject, [ran])
    return int(any(row.met is False for row in ran.result.rows))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=positive, help=f"(default: {SECONDS}; of a quick one {QUICK_SECONDS})"
    )
    parser.add_argument(
        "--callers", type=positive, metavar="N", help="calls at once (default: the knee, measured first)"
    )
    parser.add_argument("--seed", type=int, default=SEED, help="of what is asked (default: %(default)s)")
    options.add(parser, "soak-output")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
