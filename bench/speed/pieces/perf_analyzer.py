"""NVIDIA's perf_analyzer over concurrency, on `segment` with the models that it asks through BLS."""

from __future__ import annotations

from collections.abc import Sequence

from bench.speed import perf_analyzer
from bench.speed.bench import Bench
from bench.speed.direct import inputs_of
from bench.speed.results import Result, Row, Table

CALLERS, FEWER = (1, 2, 4, 8), (1, 4, 8)  # at full size, on small checkpoints
FIRST = 70_000
STABLE_PERCENT = 10.0


def run(bench: Bench) -> Result:
    bench.stop_reference()
    try:
        tool = perf_analyzer.find(bench.output.parent / "perf_analyzer", bench.choices.perf_analyzer)
    except perf_analyzer.Unavailable as error:
        bench.say(f"perf_analyzer does not start here: {error}")
        note = (
            f"It does not start here ({error}). The table of callers is of the project's own load generator."
        )
        return Result([], [Table("perf_analyzer", ["not measured"], [], note)], {"unavailable": str(error)})
    server = bench.server(memory_bytes=0)
    requests = bench.times(8, 4, 3)
    bench.output.mkdir(parents=True, exist_ok=True)
    inputs = bench.output / "perf_analyzer-inputs.json"
    settings = {**bench.subject.request, "num_beams": 1}
    pictures = bench.pictures(bench.times(64, 16, 4), FIRST)
    perf_analyzer.write_inputs(inputs, [inputs_of(picture, settings) for picture in pictures])
    callers = (CALLERS if bench.subject.is_full else FEWER)[: bench.times(4, 4, 1)]
    stable = perf_analyzer.ANY_PERCENT if bench.choices.quick else STABLE_PERCENT
    measured = [perf_analyzer.measure(tool, server, inputs, count, requests, stable) for count in callers]
    rows = [one.columns for one in measured]
    best = max(rows, key=lambda row: row["Inferences/Second"])
    what = f"perf_analyzer: throughput with {best['Concurrency']:.0f} callers, against one"
    return Result(
        [Row(what, best["Inferences/Second"] / rows[0]["Inferences/Second"], "×")],
        tables(measured, "perf_analyzer over concurrency, greedy", stable),
        {"rows": rows, "composing": [[vars(part) for part in one.composing] for one in measured]},
    )


def tables(measured: Sequence[perf_analyzer.Measured], title: str, stable: float) -> list[Table]:
    """What it says of each number of callers, the first to be compared with, and of the models that were asked."""
    first = measured[0].columns["Inferences/Second"]
    lines = [
        [
            f"{row['Concurrency']:.0f}",
            f"{row['Inferences/Second']:.2f}",
            f"{row['Inferences/Second'] / first:.2f}",
            *(f"{row[f'{share} latency'] / 1e3:.0f}" for share in ("p50", "p90", "p95", "p99")),
            "yes" if one.stable else f"not within {stable:g} %",
        ]
        for one in measured
        for row in [one.columns]
    ]
    head = [
        "callers",
        "answers a second",
        "against one",
        "p50, ms",
        "p90, ms",
        "p95, ms",
        "p99, ms",
        "stable",
    ]
    inside = [
        [f"{one.columns['Concurrency']:.0f}", part.model, f"{part.queue_ms:.1f}", f"{part.compute_ms:.1f}"]
        for one in measured
        for part in one.composing
    ]
    return [
        Table(title, head, lines),
        Table(
            "The models that `segment` asks (BLS), as perf_analyzer reports them",
            ["callers", "model", "in its queue, ms", "computing, ms"],
            inside,
            "`florence2` answers later than it takes a request over, so Triton does not see its time.",
        ),
    ]
