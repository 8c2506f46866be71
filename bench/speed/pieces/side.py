"""One request at a time, beside the hand-written way: the same pictures, one after the other through both."""

from __future__ import annotations

from bench.speed.agreement import Agreement
from bench.speed.bench import Bench
from bench.speed.figures import Spread, paired_ratio
from bench.speed.results import Result, Row, Table

TARGETS = {1: 1.8, 3: 2.4}
FIRST = 1000  # of the pictures


def run(bench: Bench) -> Result:
    bench.server(memory_bytes=0)
    bench.reference()
    result = Result()
    lines = []
    for beams, target in TARGETS.items():
        name = search(beams)
        agreement = Agreement()
        times: dict[str, list[float]] = {"served": [], "reference": []}
        pictures = bench.pictures(1 + bench.times(10, 4, 2), FIRST * beams)
        for number, picture in enumerate(pictures):

            def serve(picture: bytes = picture, beams: int = beams) -> tuple[float, object]:
                return bench.segment(picture, num_beams=beams)

            def refer(picture: bytes = picture, beams: int = beams) -> tuple[float, object]:
                return bench.refer(picture, beams)

            # A B, B A, A B …: neither side always comes after the other.
            sides = [serve, refer] if number % 2 else [refer, serve]
            answers = {side.__name__: side() for side in sides}
            agreement.compare(answers["serve"][1], answers["refer"][1])
            # Full-size answers carry both texts themselves (fixed_boxes.py): there two pictures are enough.
            if number < bench.times(len(pictures), 2, len(pictures)):
                bench.check_tokens(agreement, picture, beams, answers["refer"][1])
            if number:  # the first one warms both up
                times["served"].append(answers["serve"][0])
                times["reference"].append(answers["refer"][0])
        ratio = paired_ratio(times["reference"], times["served"])
        bench.say(f"{name}: {ratio.value:.2f}×; {agreement.sentence()}")
        result.rows.append(
            Row(
                f"one request, fp32, {name}, against the reference",
                ratio.value,
                "×",
                target,
                False,
                ratio.low,
                ratio.high,
            )
        )
        served, reference = Spread.of(times["served"]), Spread.of(times["reference"])
        lines.append([name, _seconds(served), _seconds(reference), str(ratio.count), agreement.sentence()])
        result.raw[name] = {**times, "agreement": vars(agreement)}
    result.tables.append(
        Table(
            "Side by side with the reference",
            [
                "search",
                "served, s (quartiles)",
                "reference, s (quartiles)",
                "pictures",
                "checked in the same run",
            ],
            lines,
        )
    )
    return result


def search(beams: int) -> str:
    return "greedy" if beams == 1 else f"{beams} beams"


def _seconds(spread: Spread) -> str:
    return f"{spread.median:.3f} ({spread.low:.3f} to {spread.high:.3f})"
