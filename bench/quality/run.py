"""Ask about many scenes at once, and keep what was judged of each."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from bench.quality import ask, scenes
from bench.quality.judge import EndToEnd, Mark, judge_answer, judge_grounding, judge_masks
from florence2_sam2.client import Segmenter

IN_FLIGHT = 8  # calls at once: as many as the service works on by default


@dataclass(frozen=True)
class Judged:
    """One scene. What depends on the search has an entry for each number of beams."""

    number: int
    held_out: bool
    caption: str
    grounding: dict[int, list[Mark]]
    """IoU of the box matched with each thing, 0 where none is."""
    masks: list[Mark] = field(default_factory=list)
    score_errors: list[Mark] = field(default_factory=list)
    end_to_end: dict[int, EndToEnd] = field(default_factory=dict)
    answers: dict[int, dict[str, Any]] = field(default_factory=dict)
    """The service's JSON answers to the picture alone."""


def judge_scene(
    segmenter: Segmenter, number: int, held_out: bool, beams: Sequence[int], seed: int = scenes.SEED
) -> Judged:
    """All calls about one scene. Of a held-out one only the grounding is asked for."""
    scene = scenes.draw(number, held_out, seed)
    grounding = {b: judge_grounding(scene, ask.grounded(segmenter, scene, b)) for b in beams}
    if held_out:
        return Judged(number, held_out, scene.caption, grounding)
    masks, score_errors = judge_masks(scene, *ask.masks_of_boxes(segmenter, scene))
    answers = {b: ask.segmented(segmenter, scene, b) for b in beams}
    return Judged(
        number,
        held_out,
        scene.caption,
        grounding,
        masks,
        score_errors,
        {b: judge_answer(scene, a) for b, a in answers.items()},
        {b: a.raw for b, a in answers.items()},
    )


def judge_all(
    address: str,
    count: int,
    unseen_count: int,
    beams: Sequence[int],
    seed: int = scenes.SEED,
    progress: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> list[Judged]:
    """`count` scenes, and `unseen_count` around unseen pairs, asked of the server at `address`, several at once."""
    jobs = [(n, False) for n in range(count)] + [(n, True) for n in range(unseen_count)]
    start = time.monotonic()
    judged = []
    with Segmenter(address) as segmenter, ThreadPoolExecutor(IN_FLIGHT) as pool:
        try:
            for result in pool.map(lambda job: judge_scene(segmenter, job[0], job[1], beams, seed), jobs):
                judged.append(result)
                if len(judged) % 50 == 0 or len(judged) == len(jobs):
                    progress(f"{len(judged)} of {len(jobs)} scenes, {time.monotonic() - start:.0f} s")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return judged
