"""The 8-bit weight-only decoder: how fast, and how often it writes what fp32 writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.agreement.ask import image_features, written
from bench.agreement.judge import compare, figures
from bench.quality.scenes import draw
from bench.speed.bench import Bench
from bench.speed.figures import paired_ratio
from bench.speed.prepare import forced
from bench.speed.results import Result, Row, Table
from florence2_sam2.server import manifest
from florence2_sam2.training.statistics import Estimate

TARGET = 2.0
FIRST = 80_000
SCENES = 100  # for the agreement with fp32


def run(bench: Bench) -> Result:
    repository = bench.choices.eight_bit
    if repository is None:
        note = "No repository with the 8-bit decoder was named (`--eight-bit FOLDER`)."
        return Result([], [Table("8-bit decoder", ["not measured"], [], note)], {})
    if manifest.read_florence2(repository).decoder_weights != "int8":
        raise ValueError(f"{repository} has no 8-bit decoder: export it with --decoder-weights int8")
    return _measure(bench, repository)


def _measure(bench: Bench, repository: Path) -> Result:
    subject = replace(bench.subject, repository=repository)
    if subject.tokens is not None:
        subject = forced(subject, subject.tokens, copy_to=bench.output / "eight-bit-repository")
    pictures = bench.pictures(1 + bench.times(12, 3, 1), FIRST)
    # Each server by itself, since two would share what each is set to have alone; both in turns with the reference.
    times, ratios = {}, {}
    for name, where in (("8-bit", subject.repository), ("fp32", None)):
        bench.server(where, memory_bytes=0)
        pairs = []
        for number, picture in enumerate(pictures):
            pair = bench.segment(picture, num_beams=1)[0], bench.refer(picture, 1)[0]
            if number:  # the first one warms both up
                pairs.append(pair)
        served, reference = zip(*pairs, strict=True)
        times[name] = {"served": served, "reference": reference}
        ratios[name] = paired_ratio(reference, served)
    ratio = ratios["8-bit"]
    what = "one request, 8-bit decoder, greedy, against the reference"
    rows = [
        Row(what, ratio.value, "×", TARGET, False, ratio.low, ratio.high),
        Row("  against fp32, each measured against the reference", ratio.value / ratios["fp32"].value, "×"),
    ]
    # What random weights write is noise: how often it is the same noise says nothing of a trained decoder.
    counts = {} if bench.subject.is_full else _agreement(bench, subject.repository)
    rows += [
        Row(f"  beside fp32: {what}", one.value, "%", low=one.low, high=one.high)
        for what, one in counts.items()
    ]
    raw = {"times": times, "agreement": {what: vars(one) for what, one in counts.items()}}
    return Result(rows, [], raw)


def _agreement(bench: Bench, repository: Path) -> dict[str, Estimate]:
    """How often both decoders write the same about scenes that nothing was trained on, as `scripts/agreement` says."""
    drawn = [draw(number) for number in range(bench.times(SCENES, 1, 2))]
    bench.stop_server()
    features = image_features(bench.subject.repository, drawn)
    sides = [written(where, drawn, features, beams=1) for where in (bench.subject.repository, repository)]
    return figures([compare(one, other) for one, other in zip(*sides, strict=True)])
