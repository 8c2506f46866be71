"""What a call has so far: its caption, its candidates, its times; and who is told of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from florence2_sam2.server import records
from florence2_sam2.server.segment.candidates import Candidate, open_candidates

STAGES = ("decode", "caption", "ground", "embed", "masks", "postprocess")


@dataclass
class Outcome:
    """Everything an answer is made of. `candidates` keep the order in which they were found."""

    width: int
    height: int
    caption: str
    caption_source: str
    candidates: list[Candidate]
    warnings: list[str]
    timings_ms: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    @property
    def kept(self) -> list[Candidate]:
        return open_candidates(self.candidates)

    @property
    def dropped(self) -> list[Candidate]:
        return [candidate for candidate in self.candidates if candidate.reason is not None]


class Watcher:
    """Is told how far a call is; does nothing with it. `reads_along`: whether it wants a text while it is written."""

    reads_along = False

    def started(self, outcome: Outcome) -> None:
        """The picture has been read."""

    def text(self, text: str) -> None:
        """The caption as far as it is written."""

    def caption(self, outcome: Outcome) -> None:
        """The caption is known."""

    def boxes(self, outcome: Outcome) -> None:
        """All candidates have been found, and those without a chance dropped."""

    def masks(self, done: int, of: int) -> None:
        """That many boxes have their masks."""

    def found(self, index: int, item: dict[str, Any]) -> None:
        """An object of the answer, in JSON."""


@contextmanager
def clock(timings: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        with records.span(stage):
            yield
    finally:
        timings[stage] += (time.perf_counter() - start) * 1e3
