"""How near the pipeline is to what the machine can do at best, component by component."""

from __future__ import annotations

from bench.speed.bench import Bench
from bench.speed.components import Components
from bench.speed.figures import Spread
from bench.speed.peaks import LEAST_BYTES, SIDES, Peaks
from bench.speed.results import Result, Row, Table
from bench.speed.work import Work
from bench.speed.worker import SERVERS_THREADS, Worker

BEAMS = 1
LEAST = 0.80
FIRST = 50_000
ALL_THREADS = {"OMP_NUM_THREADS": None, "MKL_NUM_THREADS": None, "OPENBLAS_NUM_THREADS": None}


def run(bench: Bench) -> Result:
    subject = bench.subject
    picture = bench.pictures(1, FIRST)[0]
    bench.stop_reference()
    repeats = bench.times(9, 4, 1)
    bench.server(memory_bytes=0)
    bench.segment(picture, num_beams=BEAMS)
    with Worker(
        Components, subject.repository, picture, subject.tokens is not None, environment=SERVERS_THREADS
    ) as worker:
        before = peaks(bench)
        names = worker.call("names")
        seconds = [Spread.of(times) for times in worker.call("seconds", repeats)]
        whole = Spread.of([bench.segment(picture, num_beams=BEAMS)[0] for _ in range(repeats)])
        work: list[Work] = worker.call("work")
        after = peaks(bench)
    flops = max(*before[0].values(), *after[0].values())
    bandwidth = max(*before[1].values(), *after[1].values())
    lines, limits, parts = [], [], []
    for (name, runs), one, spread in zip(names, work, seconds, strict=True):
        limit = one.limit_seconds(flops, bandwidth)
        limits.append(limit * runs)
        parts.append(spread.median * runs)
        by = "arithmetic" if one.flops / flops >= one.bytes / bandwidth else "memory"
        lines.append(
            [
                name,
                str(runs),
                f"{one.flops / 1e9:.2f}",
                f"{one.bytes / 1e6:.1f}",
                by,
                f"{1e3 * limit * runs:.1f}",
                f"{1e3 * spread.median * runs:.1f}",
                f"{limit / spread.median:.2f}",
            ]
        )
    total, measured = sum(limits), sum(parts)
    rest = whole.median - measured
    lines += [
        [
            "all components",
            "",
            "",
            "",
            "",
            f"{1e3 * total:.1f}",
            f"{1e3 * measured:.1f}",
            f"{total / measured:.2f}",
        ],
        ["everything else", "", "", "", "", "0", f"{1e3 * rest:.1f}", ""],
        [
            "the request as served",
            "",
            "",
            "",
            "",
            f"{1e3 * total:.1f}",
            f"{1e3 * whole.median:.1f}",
            f"{total / whole.median:.2f}",
        ],
    ]
    target = LEAST if subject.is_full else None
    rows = [
        Row(
            "whole request as served, roofline to measured time",
            total / whole.median,
            "share",
            target,
            False,
            total / whole.high,
            total / whole.low,
        ),
        Row("  its components alone", total / measured, "share"),
    ]
    note = (
        f"Limits: {flops / 1e9:.0f} GFLOP/s ({_shown(before[0], after[0], 1e9)}), {bandwidth / 1e9:.1f} GB/s "
        f"({_shown(before[1], after[1], 1e9)}). Counted are products of matrices and convolutions, and bytes of"
        " weights, inputs and outputs, each once. One greedy request; everything else is the picture's decoding and"
        " resizing, search, filters, masks at full size and transport."
    )
    head = ["component", "runs", "GFLOP a run", "MB a run", "limit", "roofline, ms", "measured, ms", "share"]
    raw = {
        "peaks": {"before": before, "after": after},
        "components": [
            {"name": name, "runs": runs, "work": vars(one), "seconds": vars(spread)}
            for (name, runs), one, spread in zip(names, work, seconds, strict=True)
        ],
        "whole": vars(whole),
    }
    return Result(rows, [Table("Roofline", head, lines, note)], raw)


def peaks(bench: Bench) -> tuple[dict[str, float], dict[str, float]]:
    """FLOP/s and bytes/s of each way, in a process of its own so that its gigabyte goes with it."""
    sides, least, seconds = (SIDES, LEAST_BYTES, 1.0) if not bench.choices.quick else ((512,), 2**27, 0.1)
    with Worker(Peaks, environment=ALL_THREADS) as worker:
        return worker.call("sgemm", sides, seconds), worker.call("bandwidth", least, seconds)


def _shown(before: dict[str, float], after: dict[str, float], unit: float) -> str:
    return ", ".join(f"{name} {max(value, after[name]) / unit:.1f}" for name, value in before.items())
