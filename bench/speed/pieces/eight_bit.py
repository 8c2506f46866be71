"""The 8-bit weight-only decoder: how fast, and how often it writes what fp32 writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.speed.agreement import CAPTION, GROUNDING, florence2
from bench.speed.bench import Bench
from bench.speed.figures import paired_ratio
from bench.speed.prepare import forced
from bench.speed.results import Result, Row, Table

TARGET = 2.0
FIRST = 80_000


def run(bench: Bench) -> Result:
    repository = bench.choices.eight_bit
    if repository is None:
        note = "No repository with the 8-bit decoder was named (`--eight-bit FOLDER`)."
        return Result([], [Table("8-bit decoder", ["not measured"], [], note)], {})
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
    rows += [Row(f"  {what}", share, "%") for what, share in counts.items()]
    return Result(rows, [], {"times": times, "agreement": counts})


def _agreement(bench: Bench, repository: Path) -> dict[str, float]:
    """How often both decoders write the same on unseen scenes: a caption, then the grounding of fp32's caption."""
    scenes = bench.times(100, 4, 2)
    pictures = bench.pictures(scenes, FIRST + 1000)
    written: list[list[tuple[list[int], list[int]]]] = []
    captions: list[str] = []
    for where in (None, repository):
        address = bench.server(where, memory_bytes=0).grpc_address

        def ask(number: int, address: str = address) -> tuple[list[int], list[int]]:
            caption = florence2(address, pictures[number], CAPTION, beams=1)
            if number == len(captions):  # the first of the two servers, which is fp32
                captions.append(caption["text"])
            grounding = florence2(address, pictures[number], GROUNDING, captions[number], 1)
            return caption["token_ids"].tolist(), grounding["token_ids"].tolist()

        written.append([ask(number) for number in range(scenes)])
    pairs = [pair for one, other in zip(*written, strict=True) for pair in zip(one, other, strict=True)]
    captions_alike = [one[0] == other[0] for one, other in zip(*written, strict=True)]
    groundings_alike = [one[1] == other[1] for one, other in zip(*written, strict=True)]
    common = sum(common_prefix(one, other) for one, other in pairs)
    return {
        f"captions of {scenes} unseen scenes, all tokens as fp32": sum(captions_alike) / scenes,
        "groundings of the same captions, all tokens as fp32": sum(groundings_alike) / scenes,
        "tokens before the first that differs": common / sum(len(one) for one, _ in pairs),
    }


def common_prefix(one: list[int], other: list[int]) -> int:
    """How many tokens two texts begin with alike."""
    return next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
