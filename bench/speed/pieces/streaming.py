"""What telling costs: a streamed call against a plain one, and its caption against a call that only captions."""

from __future__ import annotations

from bench.speed.bench import Bench
from bench.speed.figures import paired_ratio
from bench.speed.results import Result, Row

BEAMS = 1
CAPTION, WHOLE = 1.05, 1.02  # of the caption alone, of the plain call, at most
FIRST = 40_000


def run(bench: Bench) -> Result:
    bench.stop_reference()
    bench.server(memory_bytes=0)
    plain, streamed, caption, alone = [], [], [], []
    for number, picture in enumerate(bench.pictures(2 + bench.times(20, 6, 2), FIRST)):
        # In turns, and from another one each time, so that none has the others' place.
        calls = [bench.segment, bench.stream, bench.caption]
        seconds = {}
        for call in calls[number % 3 :] + calls[: number % 3]:
            seconds[call.__name__] = call(picture, num_beams=BEAMS)
        whole, answer = seconds["segment"]
        told, text, last = seconds["stream"]
        if (last.caption, last.objects) != (answer.caption, answer.objects):
            raise RuntimeError(f"the stream ends with another answer: {last.caption!r}, {answer.caption!r}")
        if number >= 2:
            plain.append(whole)
            streamed.append(told)
            caption.append(text)
            alone.append(seconds["caption"])
    rows = []
    for what, times, others, most in (
        ("the caption's event, against a call that only captions", caption, alone, CAPTION),
        ("streamed, against the plain call", streamed, plain, WHOLE),
    ):
        ratio = paired_ratio(times, others)
        rows.append(Row(what, ratio.value, "×", most, True, ratio.low, ratio.high))
    return Result(
        rows, [], {"plain": plain, "streamed": streamed, "caption event": caption, "caption alone": alone}
    )
