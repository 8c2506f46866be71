"""What a request costs as one thing grows: boxes, pixels, the caption's length, callers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.speed import pictures
from bench.speed.bench import Bench
from bench.speed.figures import Spread
from bench.speed.load import load
from bench.speed.results import Result, Row, Table

BOXES = (1, 3, 10, 30, 100, 300)
MEGAPIXELS = (0.3, 1, 3, 12, 50)
REDUCED = (3, 12, 50)
WORDS = (4, 16, 64, 90, 160)
CALLERS = (1, 2, 4, 8, 16)
SIDE = 0.12  # of the boxes, as a share of width and height
FIRST = 60_000
STAGES = ("decode", "caption", "ground", "embed", "masks", "postprocess")


def run(bench: Bench) -> Result:
    bench.stop_reference()
    bench.server(memory_bytes=0)
    result = Result()
    for what, sweep in (("boxes", boxes), ("megapixels", megapixels), ("words of the caption", words)):
        points = sweep(bench)
        result.raw[what] = points
        result.tables.append(_table(what, points))
        bench.say(f"{what}: " + ", ".join(f"{point['x']:g}: {point['seconds']:.3f} s" for point in points))
    result.raw["reduced decode"] = points = reduced(bench)
    result.tables.append(_reduced_table(points))
    points = callers(bench)
    result.raw["callers"] = points
    result.tables.append(_callers_table(points))
    most = points[-2] if len(points) > 1 else points[0]
    result.rows = [
        Row(
            f"throughput with {most['x']:g} callers, against one",
            most["throughput"] / points[0]["throughput"],
            "×",
        ),
        *(
            Row(
                f"time of a request with {last['x']:g} {what}, against {first['x']:g}",
                last["seconds"] / first["seconds"],
                "×",
            )
            for what, (first, *_, last) in result.raw.items()
            if what not in ("callers", "reduced decode")
        ),
    ]
    return result


def boxes(bench: Bench) -> list[dict[str, Any]]:
    """The caller's own boxes: SAM2 alone."""
    settings = {"area_threshold": 1.0, "confidence_threshold": 0.0, "nms_threshold": 1.0, "output_mask": True}
    width, height = bench.subject.picture_size
    counts = BOXES if not bench.choices.quick else BOXES[:3]

    def ask(count: int, picture: bytes) -> Any:
        # One generator for all counts: more boxes are the same ones and others.
        corners = np.random.default_rng(0).uniform(0, 1 - SIDE, (count, 2)) * [width, height]
        asked = np.concatenate([corners, corners + SIDE * np.array([width, height])], axis=1)
        return bench.segment(picture, boxes=asked, formats=[], **settings)

    return _sweep(bench, counts, ask, lambda _: bench.subject.picture_size)


def megapixels(bench: Bench) -> list[dict[str, Any]]:
    """A whole request about larger pictures."""
    sizes = MEGAPIXELS if not bench.choices.quick else MEGAPIXELS[:2]
    return _sweep(bench, sizes, lambda _, picture: bench.segment(picture, num_beams=1), pictures.size_of)


def reduced(bench: Bench) -> list[dict[str, Any]]:
    """Large JPEGs decoded in full and with `reduced_decode`: the time of that stage, and what it does to the masks."""
    points = []
    for value in REDUCED if not bench.choices.quick else REDUCED[:1]:
        rows = []
        for number in range(1 + bench.times(1, 2, 1)):
            picture = pictures.picture(FIRST + number, *pictures.size_of(value))
            answers = [
                bench.segment(picture, num_beams=1, reduced_decode=asked, output_mask=True)[1]
                for asked in (False, True)
            ]
            one, other = (answer.mask() for answer in answers)
            rows.append(
                {
                    "decode_ms": [answer.timings_ms["decode"] for answer in answers],
                    "objects": [len(answer.objects) for answer in answers],
                    "iou": float((one & other).sum() / max((one | other).sum(), 1)),
                }
            )
        points.append({"x": value, "pictures": rows[1:]})  # the first one warms up
    return points


def words(bench: Bench) -> list[dict[str, Any]]:
    """A caller's caption of so many words: no caption is written. One that the model's positions cannot hold is cut by
    the server; the points end before it."""
    counts = WORDS if not bench.choices.quick else WORDS[:2]

    def ask(count: int, picture: bytes) -> Any:
        text = " ".join(pictures.caption_of(FIRST + n) for n in range(1 + count // 8)).split()
        return bench.segment(picture, num_beams=1, caption=" ".join(text[:count]))

    return _sweep(bench, counts, ask, lambda _: bench.subject.picture_size)


def callers(bench: Bench) -> list[dict[str, Any]]:
    """Callers at once, each of which asks again when it is answered."""
    points = []
    each = bench.times(2, 2, 1)
    for count in CALLERS if not bench.choices.quick else CALLERS[:2]:
        asked = bench.pictures(count * each, FIRST + 1000)
        measured = load(lambda n, asked=asked: bench.segment(asked[n], num_beams=1)[0], count, each)
        points.append(
            {
                "x": count,
                "throughput": measured.throughput,
                "p50": measured.latency(0.5),
                "p95": measured.latency(0.95),
                "calls": len(measured.calls),
            }
        )
    return points


def _sweep(
    bench: Bench,
    values: Sequence[float],
    ask: Callable[[Any, bytes], Any],
    size: Callable[[float], tuple[int, int]],
) -> list[dict[str, Any]]:
    """A point for each value: the median over several pictures of the time, and of each stage's."""
    points = []
    for value in values:
        times, stages = [], []
        for number in range(1 + bench.times(1, 1, 1)):
            seconds, answer = ask(value, pictures.picture(FIRST + number, *size(value)))
            if any(warning.startswith("caption: cut") for warning in answer.warnings):
                return points
            if number:  # the first one warms up
                times.append(seconds)
                stages.append(answer.timings_ms)
        points.append(
            {
                "x": value,
                "seconds": Spread.of(times).median,
                "stages_ms": {name: Spread.of([row[name] for row in stages]).median for name in STAGES},
            }
        )
    return points


def _table(what: str, points: Sequence[dict[str, Any]]) -> Table:
    shown = [name for name in STAGES if any(point["stages_ms"][name] >= 0.05 for point in points)]
    rows = [
        [
            f"{point['x']:g}",
            f"{1e3 * point['seconds']:.0f}",
            f"{point['seconds'] / points[0]['seconds']:.2f}",
            *(f"{point['stages_ms'][name]:.0f}" for name in shown),
        ]
        for point in points
    ]
    return Table(f"Cost against {what}", [what, "ms", "against the first", *shown], rows)


def _reduced_table(points: Sequence[dict[str, Any]]) -> Table:
    rows = []
    for point in points:
        taken = point["pictures"]
        full, less = (Spread.of([row["decode_ms"][side] for row in taken]).median for side in (0, 1))
        rows.append(
            [
                f"{point['x']:g}",
                f"{full:.0f}",
                f"{less:.0f}",
                f"{full / less:.1f}",
                f"{np.mean([row['iou'] for row in taken]):.4f}",
                f"{min(row['iou'] for row in taken):.4f}",
                f"{sum(row['objects'][0] for row in taken)} / {sum(row['objects'][1] for row in taken)}",
            ]
        )
    head = [
        "megapixels",
        "decode, ms",
        "reduced, ms",
        "ratio",
        "mean IoU of the masks",
        "smallest",
        "objects",
    ]
    return Table("`reduced_decode` beside a full decode of the same JPEGs", head, rows)


def _callers_table(points: Sequence[dict[str, Any]]) -> Table:
    rows = [
        [
            f"{point['x']}",
            f"{point['throughput']:.2f}",
            f"{point['throughput'] / points[0]['throughput']:.2f}",
            f"{1e3 * point['p50']:.0f}",
            f"{1e3 * point['p95']:.0f}",
            str(point["calls"]),
        ]
        for point in points
    ]
    head = ["callers", "answers a second", "against one", "p50, ms", "p95, ms", "calls"]
    return Table("Callers at once, each asking again when answered", head, rows)
