"""What will be asked next is begun before it is, for who says so; and given up when it is not asked for after all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np

from florence2_sam2.server.errors import Overloaded
from florence2_sam2.server.florence2_ahead import GROUNDING, Ahead, Question
from florence2_sam2.server.florence2_options import Florence2Options
from florence2_sam2.server.generation.device_memory import borrowed

FEATURES = np.zeros((1, 2, 3), np.float32)
QUESTION = Question(GROUNDING, "a red star", (40, 30), Florence2Options(num_beams=1))


class Decoder:
    """Notes what it is to answer, and answers nothing."""

    def __init__(self) -> None:
        self.begun: list[tuple[Question, Callable[[], bool], Future[str]]] = []
        self.is_full = False

    def __call__(self, features: Any, question: Question, cancelled: Callable[[], bool]) -> Future[str]:
        if self.is_full:
            raise Overloaded("too many wait")
        assert features is FEATURES
        self.begun.append((question, cancelled, Future()))
        return self.begun[-1][2]


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 5))


def test_the_answer_under_way_goes_to_who_asks() -> None:
    async def scenario() -> None:
        decoder = Decoder()
        ahead = Ahead[str](decoder)
        assert ahead.take("mark", QUESTION, lambda: False) is None
        ahead.begin("mark", FEATURES, QUESTION)
        ((question, cancelled, answer),) = decoder.begun
        assert question == QUESTION
        assert not cancelled()
        gone = False
        taken = ahead.take("mark", replace(QUESTION), lambda: gone)
        assert taken is not None
        assert taken[0] is answer
        assert not cancelled()
        gone = True
        assert cancelled(), "its caller can no longer end it"
        assert ahead.take("mark", QUESTION, lambda: False) is None, "two have one answer"
        assert (ahead.taken, ahead.given_up) == (1, 0)

    run(scenario)


def test_another_question_ends_it() -> None:
    async def scenario() -> None:
        others = [
            replace(QUESTION, text="a blue star"),
            replace(QUESTION, size=(30, 40)),
            replace(QUESTION, options=Florence2Options(num_beams=3)),
            replace(QUESTION, task="<OD>"),
        ]
        for other in others:
            decoder = Decoder()
            ahead = Ahead[str](decoder)
            ahead.begin("mark", FEATURES, QUESTION)
            assert ahead.take("mark", other, lambda: False) is None
            assert decoder.begun[0][1]()
            assert ahead.take("mark", QUESTION, lambda: False) is None
            assert (ahead.taken, ahead.given_up) == (0, 1)

    run(scenario)


def test_marks_do_not_mix_and_are_text() -> None:
    async def scenario() -> None:
        decoder = Decoder()
        ahead = Ahead[str](decoder)
        for mark in ("one", "two"):
            ahead.begin(mark, FEATURES, QUESTION)
        for mark in (None, True, 1, 2.5, "", "three"):
            assert ahead.take(mark, QUESTION, lambda: False) is None
        taken = ahead.take("two", QUESTION, lambda: False)
        assert taken is not None
        assert taken[0] is decoder.begun[1][2]
        ahead.begin(
            "one", FEATURES, QUESTION
        )  # the same mark again: nobody can ask for the first one any more
        assert [cancelled() for _, cancelled, _ in decoder.begun] == [True, False, False]

    run(scenario)


def test_what_nobody_asks_for_is_given_up() -> None:
    async def scenario() -> None:
        decoder = Decoder()
        ahead = Ahead[str](decoder, kept_seconds=0.05)
        ahead.begin("asked", FEATURES, QUESTION)
        ahead.begin("left", FEATURES, QUESTION)
        assert ahead.take("asked", QUESTION, lambda: False) is not None
        await asyncio.sleep(0.1)
        assert [cancelled() for _, cancelled, _ in decoder.begun] == [False, True]
        assert ahead.take("left", QUESTION, lambda: False) is None
        assert (ahead.taken, ahead.given_up) == (1, 1)

    run(scenario)


def test_features_that_are_only_lent_are_left() -> None:
    async def scenario() -> None:
        decoder = Decoder()
        ahead = Ahead[str](decoder)
        ahead.begin("mark", borrowed(FEATURES), QUESTION)
        assert decoder.begun == []
        assert ahead.take("mark", QUESTION, lambda: False) is None

    run(scenario)


def test_what_is_refused_is_not_begun() -> None:
    async def scenario() -> None:
        decoder = Decoder()
        decoder.is_full = True
        ahead = Ahead[str](decoder)
        ahead.begin("mark", FEATURES, QUESTION)
        assert ahead.take("mark", QUESTION, lambda: False) is None
        assert (ahead.taken, ahead.given_up) == (0, 0)

    run(scenario)
