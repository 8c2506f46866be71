"""Decoding under load: the time of a token of a sequence among sixteen, against one alone."""

from __future__ import annotations

from bench.speed.bench import Bench
from bench.speed.decoding import Decoding
from bench.speed.figures import Spread, paired_ratio
from bench.speed.results import Result, Row, Table
from bench.speed.worker import SERVERS_ENVIRONMENT, Worker

SEQUENCES = (1, 2, 4, 8, 16)
MOST = 0.19
TOKENS = 100


def run(bench: Bench) -> Result:
    bench.stop_server()  # nothing beside it
    bench.stop_reference()
    tokens = bench.times(TOKENS, TOKENS, 8)
    repeats = bench.times(3, 3, 1)
    steps: dict[int, list[float]] = {count: [] for count in SEQUENCES}  # seconds a step, one value a run
    engine: dict[int, list[float]] = {count: [] for count in (1, SEQUENCES[-1])}
    with Worker(Decoding, bench.subject.repository, SEQUENCES[-1], environment=SERVERS_ENVIRONMENT) as worker:
        worker.call("steps", SEQUENCES[-1], 4)
        for _ in range(repeats):
            for count, runs in steps.items():
                runs.append(sum(worker.call("steps", count, tokens)) / tokens)
        for _ in range(repeats):
            for count, runs in engine.items():
                runs.append(worker.call("engine", count, tokens))
    most = SEQUENCES[-1]
    shares = {
        count: paired_ratio([value / count for value in runs], steps[1]) for count, runs in steps.items()
    }
    whole = paired_ratio([value / most for value in engine[most]], engine[1])
    target = MOST if bench.subject.is_full else None
    what = f"decoding, {most} sequences: time of a token and sequence, against one alone"
    rows = [
        Row(what, shares[most].value, "share", target, True, shares[most].low, shares[most].high),
        Row(
            "  the same through the engine: prompts, search, joining",
            whole.value,
            "share",
            None,
            True,
            whole.low,
            whole.high,
        ),
    ]
    lines = [
        [str(count), f"{1e3 * Spread.of(steps[count]).median:.2f}", f"{shares[count].value:.3f}"]
        for count in steps
    ]
    table = Table(
        f"A decoder step, mean over {tokens} tokens",
        ["sequences", "ms a step", "of one alone, a token and sequence"],
        lines,
    )
    raw = {"tokens": tokens, "steps": _named(steps), "engine": _named(engine)}
    return Result(rows, [table], raw)


def _named(runs: dict[int, list[float]]) -> dict[str, list[float]]:
    """As JSON keeps it."""
    return {str(count): values for count, values in runs.items()}
