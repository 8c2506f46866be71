"""What serving costs: Triton, gRPC, BLS and transport, against the same pipeline in one process."""

from __future__ import annotations

from bench.speed.agreement import Differs
from bench.speed.bench import Bench
from bench.speed.direct import Direct
from bench.speed.figures import Spread, paired_ratio
from bench.speed.results import Result, Row, Table
from bench.speed.worker import SERVERS_ENVIRONMENT, Worker

BEAMS = 1
MOST_RATIO, MOST_SECONDS = 1.02, 0.012  # full-size, small
FIRST = 20_000
SAME = ("caption", "objects", "filtered")


def run(bench: Bench) -> Result:
    subject = bench.subject
    bench.stop_reference()
    bench.server(memory_bytes=0)
    served, direct = [], []
    with Worker(
        Direct, subject.repository, subject.tokens is not None, environment=SERVERS_ENVIRONMENT
    ) as worker:
        settings = {**subject.request, "num_beams": BEAMS}
        for number, picture in enumerate(bench.pictures(2 + bench.times(20, 6, 2), FIRST)):

            def serve(picture: bytes = picture) -> tuple[float, object]:
                return bench.segment(picture, num_beams=BEAMS)

            def call(picture: bytes = picture) -> tuple[float, object]:
                answer: tuple[float, object] = worker.call("segment", picture, **settings)
                return answer

            order = [serve, call] if number % 2 else [call, serve]
            answers = {side.__name__: side() for side in order}
            for name in SAME:
                one, other = (getattr(answers[side][1], name) for side in ("serve", "call"))
                if one != other:
                    raise Differs(f"{name}: served {str(one)[:300]}, in one process {str(other)[:300]}")
            if number >= 2:
                served.append(answers["serve"][0])
                direct.append(answers["call"][0])
    ratio = paired_ratio(served, direct)
    differences = [one - other for one, other in zip(served, direct, strict=True)]
    more = Spread.of(differences)
    target = MOST_RATIO if subject.is_full else None
    rows = [
        Row(
            "served, against the same pipeline in one process",
            ratio.value,
            "×",
            target,
            True,
            ratio.low,
            ratio.high,
        ),
        Row(
            "served, longer than in one process",
            1e3 * more.median,
            "ms",
            None if subject.is_full else 1e3 * MOST_SECONDS,
            True,
            1e3 * more.low,
            1e3 * more.high,
        ),
    ]
    one, other = Spread.of(served), Spread.of(direct)
    table = Table(
        "Serving, against the same pipeline in one process (greedy, one request at a time)",
        ["served, ms", "in one process, ms", "difference, ms (quartiles)", "pictures"],
        [
            [
                f"{1e3 * one.median:.1f}",
                f"{1e3 * other.median:.1f}",
                f"{1e3 * more.median:.1f} ({1e3 * more.low:.1f} to {1e3 * more.high:.1f})",
                str(more.count),
            ]
        ],
        "Both are timed from the file's bytes to the client's typed answer, and answer the same.",
    )
    return Result(rows, [table], {"served": served, "direct": direct})
