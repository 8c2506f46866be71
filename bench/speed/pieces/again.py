"""The same picture again, with other thresholds or with another caption: what the server's memory saves."""

from __future__ import annotations

from bench.speed.bench import Bench
from bench.speed.figures import paired_ratio
from bench.speed.pictures import caption_of
from bench.speed.results import Result, Row

BEAMS = 1
THRESHOLDS, CAPTION = 0.02, 0.30  # of the first time, at most
FIRST = 30_000


def run(bench: Bench) -> Result:
    bench.server()  # as it is by default: the memory is what is measured
    first, thresholds, caption, kept = [], [], [], []
    pictures = bench.pictures(1 + bench.times(12, 4, 2), FIRST)
    for number, picture in enumerate(pictures):
        whole, answer = bench.segment(picture, num_beams=BEAMS)
        # Others on both sides: one lets more through, one less.
        other, again = bench.segment(
            picture, num_beams=BEAMS, area_threshold=0.9, confidence_threshold=0.2, nms_threshold=0.6
        )
        if again.caption != answer.caption:
            raise RuntimeError(f"the caption has changed: {answer.caption!r}, then {again.caption!r}")
        said, _ = bench.segment(picture, num_beams=BEAMS, caption=caption_of(FIRST + number + 1))
        if number:
            first.append(whole)
            thresholds.append(other)
            caption.append(said)
            kept.append(len(again.objects))
    rows = []
    for what, times, most in (
        ("other thresholds", thresholds, THRESHOLDS),
        ("another caption", caption, CAPTION),
    ):
        share = paired_ratio(times, first)
        rows.append(
            Row(f"the same picture again, {what}", share.value, "%", most, True, share.low, share.high)
        )
    return Result(rows, [], {"first": first, "thresholds": thresholds, "caption": caption, "objects": kept})
