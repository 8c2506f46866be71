"""The supervisor tells a server that hangs from one that has much to do by its answers. Time is made up here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from florence2_sam2.server.launch.connection import NoAnswer
from florence2_sam2.server.launch.probe import SAM2_STEPS, Hangs, blame
from florence2_sam2.server.launch.watch import FAILURES, PROBE_SHARE, Health, Timing, Watch
from florence2_sam2.server.settings import Settings

TIMING = Timing(health=5, probe=60, hung=120)
ENCODER = "sam2_image_encoder"


def health(
    in_flight: int = 0,
    progress: int = 0,
    waits_for: dict[str, float] | None = None,
    decoder_still: float = 0,
    answers: dict[str, int] | None = None,
) -> Health:
    return Health(in_flight, progress, waits_for or {}, decoder_still, answers or {ENCODER: 0})


@dataclass
class Watched:
    """A watch, and a server that is asked whenever it is due."""

    watch: Watch = field(default_factory=lambda: Watch(TIMING, 0.0))
    now: float = 0.0

    def go_on(self, seconds: float, state: Callable[[float], Health]) -> str | None:
        """The first reason to restart within that time."""
        end = self.now + seconds
        while self.now < end:
            self.now += 0.25
            if self.watch.health_is_due(self.now):
                reason = self.watch.is_well(self.now, state(self.now))
                if reason:
                    return reason
        return None


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_the_settings_are_the_intervals() -> None:
    assert Timing.of(Settings()) == TIMING == Timing()
    assert Timing.of(Settings(health_seconds=1, probe_seconds=0, hung_seconds=7)) == Timing(1, 0, 7)


def test_an_idle_server_is_well_for_ever(watched: Watched) -> None:
    assert watched.go_on(10_000, lambda now: health()) is None


def test_requests_that_stand_still_are_noticed(watched: Watched) -> None:
    assert watched.go_on(1000, lambda now: health(in_flight=2, progress=7)) == (
        "of 2 requests in flight none has moved on for 120 s"
    )
    assert 120 <= watched.now <= 130


def test_a_slow_server_that_moves_on_is_well(watched: Watched) -> None:
    assert watched.go_on(2000, lambda now: health(in_flight=8, progress=int(now // 100))) is None


def test_an_idle_moment_begins_the_time_anew(watched: Watched) -> None:
    assert watched.go_on(2000, lambda now: health(in_flight=int(now % 100 > 8), progress=7)) is None


def test_a_model_that_stands_still_is_named_although_others_move_on(watched: Watched) -> None:
    """Callers give up and come again: the encoder of Florence-2 works on, and answers are counted."""

    def state(now: float) -> Health:
        return health(in_flight=8, progress=int(now), waits_for={ENCODER: now}, answers={ENCODER: 4})

    assert watched.go_on(1000, state) == f"{ENCODER} has answered nothing for 125 s"


def test_a_model_that_others_keep_busy_is_well(watched: Watched) -> None:
    """Calls of `segment` wait behind calls that come past it, but Triton counts answers."""

    def state(now: float) -> Health:
        return health(
            in_flight=1, progress=int(now), waits_for={ENCODER: now}, answers={ENCODER: int(now // 50)}
        )

    assert watched.go_on(1000, state) is None


def test_a_decoder_that_stands_still_is_noticed(watched: Watched) -> None:
    def state(now: float) -> Health:
        return health(in_flight=1, progress=int(now), decoder_still=now)

    assert watched.go_on(1000, state) == "florence2 has written nothing for 120 s"


def test_three_bad_answers_in_a_row_are_too_many(watched: Watched) -> None:
    watch = watched.watch
    for _ in range(5):
        for _ in range(FAILURES - 1):
            assert watch.is_not_well(0, "no answer within 8 s") is None
        assert watch.is_well(0, health()) is None
    reasons = [watch.is_not_well(0, "no answer within 8 s") for _ in range(FAILURES)]
    assert reasons == [None] * (FAILURES - 1) + ["the server is not well: no answer within 8 s"]


def test_health_is_asked_at_its_interval(watched: Watched) -> None:
    watch = watched.watch
    assert not watch.health_is_due(4.9)
    assert watch.health_is_due(5)
    watch.is_well(7, health())
    assert not watch.health_is_due(11.9)
    watch.is_not_well(12, "")
    assert not watch.health_is_due(16.9)
    assert watch.health_is_due(17)


@pytest.mark.parametrize(
    "busy",
    [health(in_flight=1), health(waits_for={ENCODER: 0.1}), health(decoder_still=0.1)],
    ids=["in flight", "waiting for a model", "writing"],
)
def test_only_an_idle_server_gets_real_requests(watched: Watched, busy: Health) -> None:
    watch = watched.watch
    assert not watch.probe_is_due(59)
    watch.is_well(60, busy)
    assert not watch.probe_is_due(61)
    watch.is_well(65, health())
    assert watch.probe_is_due(66)


def test_a_real_request_that_costs_much_is_sent_less_often(watched: Watched) -> None:
    watched.watch.has_served(100, 0.1)
    assert watched.watch.probe_is_due(160)
    watched.watch.has_served(200, 9)
    assert not watched.watch.probe_is_due(200 + PROBE_SHARE * 9 - 1)
    assert watched.watch.probe_is_due(200 + PROBE_SHARE * 9)


def test_a_real_request_that_fails_is_sent_again_soon(watched: Watched) -> None:
    watch = watched.watch
    assert watch.has_not_served(60, "broken") is None
    assert not watch.probe_is_due(64)
    assert watch.probe_is_due(65)
    watch.has_served(65, 0.1)
    reasons = [watch.has_not_served(70, "broken") for _ in range(FAILURES)]
    assert reasons == [None] * (FAILURES - 1) + ["the server fails: broken"]


def test_what_is_never_to_be_asked_is_never_asked() -> None:
    watch = Watch(Timing(health=0, probe=0), 0)
    assert not watch.health_is_due(1e9)
    assert not watch.probe_is_due(1e9)


@pytest.mark.parametrize(
    ("answers", "blamed"),
    [
        ([0, 0, 0, 0], "sam2_preprocess"),
        ([1, 1, 0, 0], "sam2_mask_decoder"),
        ([1, 1, 1, 0], "sam2_postprocess"),
        ([5, 1, 0, 0], "sam2_mask_decoder"),
    ],
)
def test_the_first_that_has_not_answered_is_blamed(answers: list[int], blamed: str) -> None:
    said = f"^a request to sam2 had no answer within 120 s, and {blamed} has answered nobody$"
    with pytest.raises(Hangs, match=said) as raised:
        blame("sam2", SAM2_STEPS, answers, NoAnswer("no answer within 120 s"))
    assert raised.value.passed == SAM2_STEPS[: SAM2_STEPS.index(blamed)]


def test_a_request_that_may_wait_among_others_blames_nobody() -> None:
    """The answer of the mask decoder that was counted may have been another's, who waits for the next one now."""
    watch, passed = Watch(Timing(), 0), SAM2_STEPS[:3]
    assert watch.has_hung(1, "sam2_postprocess has answered nobody", passed) is not None
    watch.is_well(2, health(waits_for={"florence2": 100.0}))
    assert watch.has_hung(2, "sam2_postprocess has answered nobody", passed) is not None
    watch.is_well(3, health(waits_for={"sam2_mask_decoder": 100.0}))
    reasons = [watch.has_hung(4, "sam2_postprocess has answered nobody", passed) for _ in range(FAILURES)]
    assert reasons[:-1] == [None] * (FAILURES - 1)
    assert reasons[-1] == "the server fails: sam2_postprocess has answered nobody"
    assert watch.has_hung(5, "sam2_preprocess has answered nobody") is not None


def test_where_others_are_served_the_request_may_wait_in_their_line() -> None:
    with pytest.raises(NoAnswer):
        blame("sam2", SAM2_STEPS, [1, 40, 0, 0], NoAnswer("no answer within 120 s"))
    blame("sam2", SAM2_STEPS, [9, 40, 30, 20], NoAnswer("no answer within 120 s"))
