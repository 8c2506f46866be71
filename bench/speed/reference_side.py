"""`bench/reference.py` in a process of its own, timed: the other side of each comparison."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.utils import logging

from bench.reference import GROUNDING, Found, Reference, ReferenceResult
from bench.speed.agreement import Expected
from bench.speed.fixed_boxes import boxes_for
from bench.speed.machine import cores
from bench.speed.pictures import decoded


class ReferenceSide:
    """Answers encoded pictures, as the server does; the seconds are those from the file's bytes to the answer.

    Args:
        tokens: what both texts are forced to, and boxes are then fixed; None: neither.
        threads: of torch; None: one for each core.
    """

    def __init__(self, florence2: Path, sam2: Path, tokens: int | None, threads: int | None = None) -> None:
        import torch

        self._torch = torch
        logging.disable_progress_bar()
        # For one picture, and for several together.
        self._threads = dict.fromkeys((False, True), threads or cores())
        self._reference = (Reference if tokens is None else FixedBoxesReference)(florence2, sam2)
        if tokens is not None:
            config = self._reference.florence2.generation_config
            config.min_new_tokens = config.max_new_tokens = tokens

    def choose_threads(self, pictures: Sequence[bytes], repeats: int = 3) -> dict[int, float]:
        """Take the faster of one thread and one for each core, for one picture or for these together: tiny networks
        lose by sharing. Seconds of each."""
        together = len(pictures) > 1

        def once() -> float:
            answer = (
                self.segment_together(pictures, num_beams=1)
                if together
                else self.segment(pictures[0], num_beams=1)
            )
            return answer[0]

        seconds = {}
        for threads in sorted({1, cores()}):
            self._threads[together] = threads
            once()
            seconds[threads] = min(once() for _ in range(repeats))
        self._threads[together] = min(seconds, key=lambda threads: seconds[threads])
        return seconds

    def segment(self, picture: bytes, **settings: Any) -> tuple[float, Expected]:
        self._torch.set_num_threads(self._threads[False])
        start = time.perf_counter()
        result = self._reference.segment(decoded(picture), **settings)
        return time.perf_counter() - start, _expected(result)

    def segment_together(self, pictures: Sequence[bytes], **settings: Any) -> tuple[float, list[Expected]]:
        from bench.speed.batched import segment_together

        self._torch.set_num_threads(self._threads[True])
        start = time.perf_counter()
        results = segment_together(self._reference, [decoded(picture) for picture in pictures], **settings)
        return time.perf_counter() - start, list(map(_expected, results))


def _expected(result: ReferenceResult) -> Expected:
    return Expected(
        result.caption,
        result.caption_ids,
        result.grounding_ids,
        result.boxes,
        result.labels,
        result.scores,
        result.masks,
        [(item.label, str(item.reason)) for item in result.filtered],
    )


class FixedBoxesReference(Reference):
    """Goes on with the boxes of `fixed_boxes.py` after grounding, as the server's variant does."""

    def read(self, answer: str, ids: list[int], task: str, text: str, size: tuple[int, int]) -> list[Found]:
        found = super().read(answer, ids, task, text, size)
        if task != GROUNDING:
            return found
        tokenizer = self.processor.tokenizer
        frame = {tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id}
        written = tokenizer.backend_tokenizer.decode(
            [token for token in ids if token not in frame], skip_special_tokens=False
        )
        return [Found(written.strip(), box) for box in boxes_for(text, *size)]
