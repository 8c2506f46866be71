"""How near the pipeline is to what the machine can do at best, component by component."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from bench.speed.bench import Bench
from bench.speed.components import Components
from bench.speed.figures import Spread
from bench.speed.peaks import LEAST_BYTES, SIDES, Peaks
from bench.speed.results import Result, Row, Table
from bench.speed.work import Work
from bench.speed.worker import SERVERS_ENVIRONMENT, Worker

BEAMS = 1
LEAST = 0.80
FIRST = 50_000
Peak = tuple[dict[str, float], dict[str, float]]  # FLOP/s and bytes/s of each way to find them
_BLANK = ("", "", "", "")
ALL_THREADS = {"OMP_NUM_THREADS": None, "MKL_NUM_THREADS": None, "OPENBLAS_NUM_THREADS": None}


def run(bench: Bench) -> Result:
    subject = bench.subject
    picture = bench.pictures(1, FIRST)[0]
    bench.stop_reference()
    bench.server(memory_bytes=0)
    bench.segment(picture, num_beams=BEAMS)
    fixed = subject.tokens is not None
    with (
        Worker(Components, subject.repository, picture, fixed, environment=SERVERS_ENVIRONMENT) as worker,
        Worker(Peaks, environment=ALL_THREADS) as machine,
    ):
        names, work = worker.call("names"), worker.call("work")
        worker.call("once")  # warms up
        rounds: list[Round] = []
        found = peaks(bench, machine)
        for _ in range(bench.times(3, 6, 1)):
            once, whole = worker.call("once"), bench.segment(picture, num_beams=BEAMS)[0]
            before, found = found, peaks(bench, machine)
            rounds.append(Round.of([runs for _, runs in names], work, once, whole, [before, found]))
    lines, parts = [], []
    for at, ((name, runs), one) in enumerate(zip(names, work, strict=True)):
        limit = Spread.of([each.limits[at] for each in rounds]).median
        seconds = Spread.of([each.seconds[at] for each in rounds])
        share = Spread.of([each.limits[at] / each.seconds[at] for each in rounds]).median
        arithmetic = [one.flops / each.flops >= one.bytes / each.bandwidth for each in rounds]
        by = "arithmetic" if 2 * sum(arithmetic) > len(rounds) else "memory"
        counted = [str(runs), f"{one.flops / 1e9:.2f}", f"{one.bytes / 1e6:.1f}", by]
        lines.append([name, *counted, *_milliseconds(limit, seconds.median), f"{share:.2f}"])
        parts.append(
            {"name": name, "runs": runs, "work": vars(one), "limit": limit, "seconds": vars(seconds)}
        )
    total = Spread.of([sum(each.limits) for each in rounds]).median
    measured = Spread.of([sum(each.seconds) for each in rounds]).median
    whole = Spread.of([each.whole for each in rounds]).median
    alone = Spread.of([sum(each.limits) / sum(each.seconds) for each in rounds])
    served = Spread.of([sum(each.limits) / each.whole for each in rounds])
    lines += [
        ["all components", *_BLANK, *_milliseconds(total, measured), f"{alone.median:.2f}"],
        ["everything else", *_BLANK, *_milliseconds(0, whole - measured), ""],
        ["the request as served", *_BLANK, *_milliseconds(total, whole), f"{served.median:.2f}"],
    ]
    target = LEAST if subject.is_full else None
    rows = [
        Row(
            "whole request as served, roofline to measured time",
            served.median,
            "share",
            target,
            False,
            served.low,
            served.high,
        ),
        Row("  its components alone", alone.median, "share", low=alone.low, high=alone.high),
    ]
    note = (
        f"{len(rounds)} rounds, each of: the machine's limits, every component, the request, the limits again. Its"
        " limits are the better of the two, and shares are medians over rounds: a shared host's speed changes"
        f" within minutes. {_range('GFLOP/s', [each.flops / 1e9 for each in rounds])},"
        f" {_range('GB/s', [each.bandwidth / 1e9 for each in rounds])}. Counted are products of matrices and"
        " convolutions, and bytes of weights, inputs and outputs, each once. One greedy request; everything else is the"
        " picture's decoding and resizing, search, filters, masks at full size and transport."
    )
    head = ["component", "runs", "GFLOP a run", "MB a run", "limit", "roofline, ms", "measured, ms", "share"]
    raw = {"rounds": [asdict(each) for each in rounds], "components": parts}
    return Result(rows, [Table("Roofline", head, lines, note)], raw)


@dataclass(frozen=True)
class Round:
    """Seconds that each component of one request took, all its runs, and would take at the machine's limits then.

    `peaks`: what each way of finding the limits gave, before and after.
    """

    seconds: list[float]
    limits: list[float]
    whole: float
    flops: float
    bandwidth: float
    peaks: list[Peak]

    @classmethod
    def of(
        cls, runs: list[int], work: list[Work], once: list[float], whole: float, peaks: list[Peak]
    ) -> Round:
        """`once`: seconds of one run of each component."""
        flops, bandwidth = (max(max(one[side].values()) for one in peaks) for side in (0, 1))
        limits = [one.limit_seconds(flops, bandwidth) for one in work]
        return cls(
            [count * seconds for count, seconds in zip(runs, once, strict=True)],
            [count * seconds for count, seconds in zip(runs, limits, strict=True)],
            whole,
            flops,
            bandwidth,
            peaks,
        )


def peaks(bench: Bench, machine: Worker) -> Peak:
    """What each way reaches now."""
    sides, least, seconds = (SIDES, LEAST_BYTES, 0.5) if not bench.choices.quick else ((512,), 2**27, 0.1)
    return machine.call("sgemm", sides, seconds), machine.call("bandwidth", least, seconds)


def _milliseconds(limit: float, measured: float) -> tuple[str, str]:
    return f"{1e3 * limit:.1f}" if limit else "0", f"{1e3 * measured:.1f}"


def _range(unit: str, values: list[float]) -> str:
    return f"{min(values):.0f} to {max(values):.0f} {unit}"
