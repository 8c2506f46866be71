"""Eight requests at once, against the reference one after the other and in one batch."""

from __future__ import annotations

from bench.speed.agreement import Agreement, Differs
from bench.speed.bench import Bench
from bench.speed.figures import Spread, paired_ratio, percentile
from bench.speed.load import load
from bench.speed.results import Result, Row, Table

CALLERS = 8
BEAMS = 1
TARGET = 2.3
FIRST = 10_000


def run(bench: Bench) -> Result:
    bench.server(memory_bytes=0)
    agreement = Agreement()
    makespans: dict[str, list[float]] = {"served": [], "serial": [], "batched": []}
    latencies: list[float] = []
    alone: list[float] = []
    batched_alike = batched_count = 0
    rounds = bench.times(3, 2, 1)
    warm = bench.pictures(1, FIRST)[0]
    bench.segment(warm, num_beams=BEAMS)
    bench.refer(warm, BEAMS)
    bench.choose_threads(bench.pictures(CALLERS // 2, FIRST))
    for number in range(rounds):
        pictures = bench.pictures(CALLERS, FIRST + 1 + CALLERS * number)
        alone.append(bench.segment(bench.pictures(1, FIRST + 5000 + number)[0], num_beams=BEAMS)[0])
        served = load(lambda n, pictures=pictures: bench.segment(pictures[n], num_beams=BEAMS)[1], CALLERS)
        serial = [bench.refer(picture, BEAMS) for picture in pictures]
        batch_seconds, batch = bench.reference().call(
            "segment_together", pictures, num_beams=BEAMS, **bench.subject.reference
        )
        makespans["served"].append(served.seconds)
        makespans["serial"].append(sum(seconds for seconds, _ in serial))
        makespans["batched"].append(batch_seconds)
        latencies += [call.seconds for call in served.calls]
        for answer, (_, expected) in zip(served.answers(), serial, strict=True):
            agreement.compare(answer, expected)  # type: ignore[arg-type]
        for picture, (_, expected) in list(zip(pictures, serial, strict=True))[: bench.times(CALLERS, 2, 2)]:
            bench.check_tokens(agreement, picture, BEAMS, expected)
        batched_count += len(batch)
        batched_alike += sum(
            one.caption_ids == other.caption_ids and one.grounding_ids == other.grounding_ids
            for one, (_, other) in zip(batch, serial, strict=True)
        )
    if batched_alike < batched_count / 2:
        # Padding shifts the last bits of a sum and may turn a tie; more than that is another computation.
        raise Differs(
            f"the reference's batched form has the serial form's tokens for {batched_alike} of {batched_count}"
        )
    medians = {name: Spread.of(seconds).median for name, seconds in makespans.items()}
    better = min(("serial", "batched"), key=lambda name: medians[name])
    ratio = paired_ratio(makespans[better], makespans["served"])
    bench.say(f"8 at once: {ratio.value:.2f}× the reference's {better} form; {agreement.sentence()}")
    single = Spread.of(alone).median
    p95 = percentile(latencies, 0.95)
    rows = [
        Row(
            f"{CALLERS} requests at once, throughput, against the reference's better form ({better})",
            ratio.value,
            "×",
            TARGET,
            False,
            ratio.low,
            ratio.high,
        ),
        Row(f"their p95, against one request alone ({p95:.2f} s)", p95 / single, "×"),
    ]
    lines = [
        [
            "served, 8 at once",
            f"{CALLERS / medians['served']:.3f}",
            f"{CALLERS * single / medians['served']:.2f}×",
        ],
        ["served, one at a time", f"{1 / single:.3f}", "1.00×"],
        *(
            [
                f"reference, {name}",
                f"{CALLERS / medians[name]:.3f}",
                f"{CALLERS * single / medians[name]:.2f}×",
            ]
            for name in ("serial", "batched")
        ),
    ]
    note = (
        f"p50 {percentile(latencies, 0.5):.2f} s, p95 {p95:.2f} s over {len(latencies)} calls. {agreement.sentence()}. "
        f"The batched form wrote the serial form's tokens for {batched_alike} of {batched_count} pictures."
    )
    table = Table(
        "Eight requests at once, greedy", ["way", "pictures a second", "against one at a time"], lines, note
    )
    raw = {"makespans": makespans, "latencies": latencies, "alone": alone, "agreement": vars(agreement)}
    return Result(rows, [table], raw)
