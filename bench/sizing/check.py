"""What the model predicts, beside what has been measured that it was not fitted to.

Fitted to: throughput with 1 to 4 callers. Predicted: throughput with more of them, and latencies, answers and
refusals of calls that come at random, at each rate of scripts/load. For these the simulation gets the moments at
which the calls really came (they are drawn with a fixed seed), so that a burst of a short measurement is no error
of the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.load.judge import poisson
from bench.load.parts.rates import SEED, WARM_SHARE
from bench.sizing import simulate
from bench.sizing.curve import FORMS, Curve, Form, fit
from bench.sizing.measured import FITTED, Measured, Point, read
from bench.sizing.model import PLACES, QUEUE, Server
from bench.speed.figures import percentile
from bench.speed.results import Json, Ran, Result, Row, Table

DRAWS = 8  # of the calls' work, over which a prediction is the mean


@dataclass(frozen=True)
class Chosen:
    """The form of curve that predicts best what it was not fitted to. `errors`: of each form, by run, the mean of
    what it is off with more than FITTED callers, as a share of what was measured."""

    form: Form
    errors: Mapping[str, list[float]]


def choose(runs: Sequence[Measured]) -> Chosen:
    """Of FORMS."""
    errors: dict[str, list[float]] = {}
    for form in FORMS:
        errors[form.name] = []
        for run in runs:
            curve = fit(run.throughput(FITTED), form)
            beyond = [point for point in run.points if point.callers > FITTED]
            off = [abs(_answers(curve, point.callers) / point.throughput - 1) for point in beyond]
            errors[form.name].append(float(np.mean(off)))
    return Chosen(min(FORMS, key=lambda form: float(np.mean(errors[form.name]))), errors)


def _answers(curve: Curve, callers: int) -> float:
    return curve.throughput(min(callers, PLACES))


@dataclass(frozen=True)
class Predicted:
    """Of one rate: answers and refusals a second, seconds."""

    answered: float
    refused: float
    p50: float
    p95: float


def of_rates(server: Server, rates: Json, variation: float) -> list[Predicted]:
    """What the model says of each rate, counted as scripts/load counts. The mean over DRAWS."""
    seconds, found = rates["seconds"], []
    for point in rates["points"]:
        moments = np.array(poisson(point["share"] * rates["capacity"], seconds, SEED))
        draws = [
            _counted(
                moments,
                simulate.open_loop(server, moments, simulate.works(len(moments), variation, draw)),
                seconds,
            )
            for draw in range(DRAWS)
        ]
        found.append(Predicted(*map(float, np.mean(draws, axis=0))))
    return found


def _counted(moments: np.ndarray, seconds: np.ndarray, end: float) -> list[float]:
    begin = WARM_SHARE * end
    due = moments >= begin
    ended = moments + seconds
    answered = int(((ended >= begin) & (ended < end)).sum())
    refused = int((due & np.isnan(seconds)).sum())
    answers = seconds[due & ~np.isnan(seconds)]
    return [
        answered / (end - begin),
        refused / (end - begin),
        percentile(answers, 0.5),
        percentile(answers, 0.95),
    ]


def disciplines(curve: Curve) -> dict[str, Server]:
    """Servers that differ in how many calls are worked on at once. All take as many as the real one."""
    few = min(max(1, round(curve.gain)), PLACES)
    room = PLACES + QUEUE
    mean = Curve(curve.alone, 1.0)
    return {
        f"{PLACES} share the server, others wait": Server(curve, PLACES, QUEUE),
        f"{few} at once, others wait (M/G/{few})": Server(curve, few, room - few),
        "one at a time (M/G/1)": Server(mean, 1, room - 1),
    }


def run(load: Path, speed: Path | None) -> tuple[Result, Ran]:
    """All of it, and the run it is about.

    Raises:
        NothingMeasured: see `read`.
    """
    runs, source = read(load, speed)
    chosen = choose(runs)
    main = runs[0]
    curve = fit(main.throughput(FITTED), chosen.form)
    variation = main.variation()
    servers = disciplines(curve)
    predicted = {name: of_rates(server, main.rates, variation) for name, server in servers.items()}
    best = next(iter(servers))
    points = main.rates["points"]
    closed = [
        (one, point, _answers(fit(one.throughput(FITTED), chosen.form), point.callers))
        for one in runs
        for point in one.points
    ]
    beyond = [abs(value / point.throughput - 1) for _, point, value in closed if point.callers > FITTED]
    off = {name: _off(values, points) for name, values in predicted.items()}
    below = [at for at, point in enumerate(points) if point["share"] <= 1]
    up_to = [abs(predicted[best][at].p95 / points[at]["p95"] - 1) for at in below]
    rows = [
        Row(
            f"throughput with more than {FITTED} callers, from fewer: off by, mean",
            float(np.mean(beyond)),
            "%",
        ),
        Row("  at most", float(np.max(beyond)), "%"),
        Row("p50 of calls at random, from closed loops: off by, median over rates", off[best][0], "%"),
        Row("p95 of calls at random, from closed loops: off by, median over rates", off[best][1], "%"),
        Row("  at rates up to the capacity, at most", float(np.max(up_to)), "%"),
        Row("answers a second, from closed loops: off by, median over rates", off[best][2], "%"),
    ]
    tables = [
        _forms(chosen, runs),
        _closed(closed),
        _disciplines(off),
        _rates(points, predicted[best], curve, variation),
    ]
    raw = {
        "curve": vars(curve),
        "variation": variation,
        "points": [vars(point) for point in main.points],
        "rates": points,
        "predicted": [vars(one) for one in predicted[best]],
        "errors": dict(chosen.errors),
    }
    return Result(rows, tables, raw), source


def _off(predicted: Sequence[Predicted], points: Sequence[Json]) -> list[float]:
    """Of p50, p95, answers a second, and refusals as a share of the calls: the median of what they are off."""
    pairs = list(zip(predicted, points, strict=True))
    return [
        float(np.median([abs(one.p50 / point["p50"] - 1) for one, point in pairs])),
        float(np.median([abs(one.p95 / point["p95"] - 1) for one, point in pairs])),
        float(np.median([abs(one.answered / point["answered"] - 1) for one, point in pairs])),
        float(np.median([abs(one.refused - point["refused"]) / point["offered"] for one, point in pairs])),
    ]


def _forms(chosen: Chosen, runs: Sequence[Measured]) -> Table:
    lines = [
        [name, *(f"{100 * error:.1f} %" for error in errors), f"{100 * float(np.mean(errors)):.1f} %"]
        for name, errors in chosen.errors.items()
    ]
    note = (
        f"Fitted to 1 to {FITTED} callers of the same run. Taken: {chosen.form.name}, by these errors, which makes them"
        " a little too good for it."
    )
    return Table(
        f"Curves: what they are off in throughput with more than {FITTED} callers, mean",
        ["form", *(one.name for one in runs), "all"],
        lines,
        note,
    )


def _closed(closed: Sequence[tuple[Measured, Point, float]]) -> Table:
    lines = [
        [
            one.name,
            f"{point.callers}",
            "fitted" if point.callers <= FITTED else "predicted",
            f"{point.throughput:.2f}",
            f"{value:.2f}",
            f"{100 * (value / point.throughput - 1):+.0f} %",
            f"{1e3 * point.p50:.0f}",
            f"{1e3 * point.callers / value:.0f}",
        ]
        for one, point, value in closed
    ]
    head = ["run", "callers", "", "answers a second", "model", "off by", "p50, ms", "mean of the model, ms"]
    return Table("Callers at once", head, lines)


def _disciplines(off: Mapping[str, list[float]]) -> Table:
    lines = [[name, *(f"{100 * value:.0f} %" for value in values)] for name, values in off.items()]
    head = [
        "how calls are taken to be worked on",
        "p50 off by",
        "p95 off by",
        "answers off by",
        "refused share off by",
    ]
    return Table("Calls at random: kinds of queue, medians over the rates", head, lines)


def _rates(points: Sequence[Json], predicted: Sequence[Predicted], curve: Curve, variation: float) -> Table:
    lines = []
    for point, one in zip(points, predicted, strict=True):
        pairs = [(point[name], getattr(one, name)) for name in ("answered", "refused")]
        seconds = [(1e3 * point[name], 1e3 * getattr(one, name)) for name in ("p50", "p95")]
        lines.append(
            [
                f"{point['offered']:.2f}",
                *(text for real, model in pairs for text in (f"{real:.2f}", f"{model:.2f}")),
                *(
                    text
                    for real, model in seconds
                    for text in (f"{real:.0f}", f"{model:.0f}", f"{100 * (model / real - 1):+.0f} %")
                ),
            ]
        )
    sharpness = "infinite" if math.isinf(curve.sharpness) else f"{curve.sharpness:g}"
    note = (
        f"The model: a call alone takes {1e3 * curve.alone:.0f} ms, many at once give {curve.gain:.2f} times the"
        f" throughput, s {sharpness}, variation {variation:.3f}; {PLACES} places, {QUEUE} may wait. It was fitted to"
        f" closed loops of up to {FITTED} callers, minutes before."
        f" Predictions are means over {DRAWS} draws of the calls' work."
    )
    head = [
        *("calls a second", "answered", "model", "refused", "model"),
        *("p50, ms", "model", "off by", "p95, ms", "model", "off by"),
    ]
    return Table("Calls at random", head, lines, note)
