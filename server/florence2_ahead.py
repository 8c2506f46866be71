"""Answers that are begun before they are asked for.

`segment` grounds each caption that it has had written, on the same picture. So `florence2` begins to ground a caption
when it has it, and the way there and back, some milliseconds, is not waited for. Who wants that gives both requests one
mark. Only for a caller that is alone: under load no time passes in which nothing would be done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from florence2_sam2.server.errors import ServiceError
from florence2_sam2.server.florence2_options import Florence2Options
from florence2_sam2.server.generation.decoder import ImageFeatures

T = TypeVar("T")
# Request parameter of a caption's request and of the one that grounds it: any text, the same in both.
PARAMETER = "florence2_sam2_ahead"
GROUNDING = "<CAPTION_TO_PHRASE_GROUNDING>"
# How long an answer goes on that nobody asks for.
KEPT_SECONDS = 1.0


@dataclass(frozen=True)
class Question:
    """What is asked about a picture, see `Florence2.submit`."""

    task: str
    text: str
    size: tuple[int, int] | None
    options: Florence2Options


# Begins to answer a question about features, until the function says that nobody waits for it any more.
Submit = Callable[[ImageFeatures, Question, Callable[[], bool]], "Future[T]"]


@dataclass
class _Begun(Generic[T]):
    question: Question
    began: float
    running: Future[T]
    wanted: _Wanted


class _Wanted:
    """Whether somebody waits for an answer; read in the decoder's thread."""

    def __init__(self) -> None:
        self.cancelled: Callable[[], bool] = lambda: False

    def give_up(self) -> None:
        self.cancelled = lambda: True


class Ahead(Generic[T]):
    """Answers under way by mark. Belongs to one event loop.

    Attributes:
        taken, given_up: how many answers somebody has asked for, and how many nobody has.
    """

    def __init__(self, submit: Submit[T], kept_seconds: float = KEPT_SECONDS) -> None:
        self._submit, self._kept_seconds = submit, kept_seconds
        self._begun: dict[str, _Begun[T]] = {}
        self.taken = self.given_up = 0

    def begin(self, mark: str, features: ImageFeatures, question: Question) -> None:
        """Begin to answer. What would be refused is not begun: who asks for it hears why. Nor are features in a GPU's
        memory, which they have only for as long as the request that they came in."""
        if not isinstance(features, np.ndarray):
            return
        wanted, now = _Wanted(), time.perf_counter()
        try:
            running = self._submit(features, question, lambda: wanted.cancelled())
        except ServiceError:
            return
        self._give_up(mark)
        begun = self._begun[mark] = _Begun(question, now, running, wanted)
        asyncio.get_running_loop().call_later(self._kept_seconds, self._give_up, mark, begun)

    def take(
        self, mark: object, question: Question, cancelled: Callable[[], bool]
    ) -> tuple[Future[T], float] | None:
        """The answer to that question and when it was begun, by `time.perf_counter`; None if it was not.

        `cancelled` ends it from now on.
        """
        if not isinstance(mark, str) or mark not in self._begun:
            return None
        if self._begun[mark].question != question:
            self._give_up(mark)
            return None
        begun = self._begun.pop(mark)
        begun.wanted.cancelled = cancelled
        self.taken += 1
        return begun.running, begun.began

    def _give_up(self, mark: str, only: _Begun[T] | None = None) -> None:
        begun = self._begun.get(mark)
        if begun is not None and only in (None, begun):
            del self._begun[mark]
            begun.wanted.give_up()
            self.given_up += 1
