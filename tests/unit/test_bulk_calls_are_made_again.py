"""`bulk`'s calls: what is the servers' costs no picture, what is a picture's costs that one only."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from kserve_peer import ANSWER

from florence2_sam2.bulk.calls import MOST_IN_A_ROW, MOST_TRIES, Calls, NoServer, PictureFailed
from florence2_sam2.bulk.pace import Pace
from florence2_sam2.client import (
    CannotConnect,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    RequestCancelled,
    Segmentation,
    SegmenterError,
    ServerError,
    ServerOverloaded,
)

REFUSED = ServerOverloaded("the server is full")
AWAY = CannotConnect("connection refused")
BROKE = CannotConnect("socket closed", True)
DIED = ServerOverloaded("a part has died", True)
Reply = Callable[[str, int], SegmenterError | None]


class Server:
    """Answers, or fails as `reply(picture, time)` says; keeps what it was asked, and how much at once."""

    def __init__(self, reply: Reply, most: int = 8, patience: float = 60.0, width: int = 1) -> None:
        self.now = 0.0
        self.reply = reply
        self.asked: Counter[str] = Counter()
        self.beside: list[tuple[str, int]] = []
        self.pace = Pace(most)
        self.pace._width = float(width)
        self.calls = Calls(self._segment, self.pace, patience, lambda: self.now, self._sleep)

    async def _segment(self, picture: Any) -> Segmentation:
        self.asked[picture] += 1
        self.beside.append((picture, self.pace.under_way))
        await asyncio.sleep(0)
        error = self.reply(picture, self.asked[picture])
        if error is not None:
            raise error
        return Segmentation.from_json(ANSWER)

    async def _sleep(self, seconds: float) -> None:
        assert 0 < seconds < 8
        self.now += seconds
        await asyncio.sleep(0)

    def ask(self, *pictures: str) -> list[Any]:
        """What came of each: an answer, or the error."""

        async def all_of_them() -> list[Any]:
            return await asyncio.gather(*map(self.calls.ask, pictures), return_exceptions=True)

        return asyncio.run(all_of_them())


@pytest.mark.parametrize("error", [REFUSED, AWAY, RequestCancelled("stopped")])
def test_a_server_that_is_away_or_full_costs_no_picture(error: SegmenterError) -> None:
    server = Server(lambda _, time: error if time <= 12 else None)
    (answer,) = server.ask("a")
    assert answer.caption == ANSWER["caption"]
    assert server.asked["a"] == 13


@pytest.mark.parametrize("error", [BROKE, DIED, DeadlineExceeded("late"), ServerError("a bug")])
def test_what_may_be_the_pictures_fault_is_tried_a_few_times(error: SegmenterError) -> None:
    (answer,) = Server(lambda _, time: error if time < MOST_TRIES else None).ask("a")
    assert answer.caption == ANSWER["caption"]
    server = Server(lambda _, __: error)
    (failure,) = server.ask("a")
    assert isinstance(failure, PictureFailed)
    assert (failure.code, failure.message) == (error.code, error.message)
    assert server.asked["a"] == MOST_TRIES


def test_a_picture_that_is_refused_is_asked_about_once() -> None:
    server = Server(lambda _, __: InvalidRequest("image: is no picture"))
    (failure,) = server.ask("a")
    assert (failure.code, failure.message) == ("INVALID_ARGUMENT", "image: is no picture")
    assert server.asked["a"] == 1


def test_a_picture_that_kills_the_server_is_found_out() -> None:
    """Those that were under way with it are not blamed: the second time each is alone."""

    def reply(picture: str, time: int) -> SegmenterError | None:
        beside = [name for name, _ in server.beside[-8:]]
        return BROKE if picture == "bad" or ("bad" in beside and time == 1) else None

    names = ["a", "b", "bad", "c", "d", "e", "f", "g"]
    server = Server(reply, width=8)
    answers = dict(zip(names, server.ask(*names), strict=True))
    assert isinstance(answers.pop("bad"), PictureFailed)
    assert all(isinstance(answer, Segmentation) for answer in answers.values()), answers
    assert server.asked["bad"] == MOST_TRIES
    again = server.beside[len(names) :]
    assert [width for _, width in again] == [1] * len(again)


def test_when_nobody_answers_for_long_the_run_ends() -> None:
    server = Server(lambda _, __: AWAY, patience=60)
    (error,) = server.ask("a")
    assert isinstance(error, NoServer)
    assert str(error) == "no server has answered for 60 s (connection refused)"
    assert 60 < server.now < 70


def test_patience_begins_anew_with_each_answer() -> None:
    server = Server(lambda picture, time: AWAY if time < 10 else None, patience=60)
    for picture in "abcdef":
        (answer,) = server.ask(picture)
        assert isinstance(answer, Segmentation)
    assert server.now > 90


@pytest.mark.parametrize(
    "error",
    [
        ModelNotFound("no segment here"),
        ServerError("no key", "UNAUTHENTICATED"),
        ServerError("no", "UNIMPLEMENTED"),
    ],
)
def test_a_server_that_is_the_wrong_one_ends_the_run(error: SegmenterError) -> None:
    server = Server(lambda _, __: error)
    (raised,) = server.ask("a")
    assert isinstance(raised, NoServer)
    assert server.asked["a"] == 1


def test_when_picture_after_picture_fails_it_is_not_the_pictures() -> None:
    server = Server(lambda _, __: ServerError("a bug"))
    names = [str(number) for number in range(MOST_IN_A_ROW)]
    *failures, last = (server.ask(name)[0] for name in names)
    assert all(isinstance(failure, PictureFailed) for failure in failures)
    assert isinstance(last, NoServer)
    broken = Server(lambda picture, _: None if int(picture) % 10 == 0 else ServerError("a bug"))
    assert not any(isinstance(broken.ask(name)[0], NoServer) for name in names * 2)


def test_without_room_fewer_are_asked_at_once() -> None:
    """A server with three places: after a while hardly anything is refused, and all is answered."""
    at_once = 0

    def reply(_: str, __: int) -> SegmenterError | None:
        return REFUSED if at_once > 3 else None

    server = Server(reply, most=16, width=16)

    async def segment(picture: Any) -> Segmentation:
        nonlocal at_once
        at_once += 1
        try:
            await asyncio.sleep(0.001)
            return await server._segment(picture)
        finally:
            at_once -= 1

    server.calls._segment = segment
    names = [str(number) for number in range(120)]
    answers = server.ask(*names)
    assert all(isinstance(answer, Segmentation) for answer in answers)
    refused = server.asked.total() - len(names)
    assert refused < len(names) / 2
