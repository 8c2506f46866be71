"""What has died or hangs is started again, after pauses that grow, and at last not any more. Time is made up here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from florence2_sam2.server.launch.connection import NoAnswer, Refused
from florence2_sam2.server.launch.errors import StartError
from florence2_sam2.server.launch.probe import Hangs
from florence2_sam2.server.launch.supervisor import MAX_RESTARTS, RESTARTS_SECONDS, supervise
from florence2_sam2.server.launch.watch import Health, Timing

WELL = Health(0, 0, {}, 0.0, {})
TIMING = Timing(health=5, probe=60, hung=120)


class Enough(Exception):
    """Ends a test."""


def well() -> Health:
    return WELL


def nothing() -> None:
    pass


@dataclass
class Server:
    """What the supervisor sees of a server; the test says how it fares, and the time passes in its sleep."""

    seconds: float = 1000
    alive: Callable[[], None] = nothing
    healthy: Callable[[], Health] = well
    works: Callable[[], None] = nothing
    starts: Callable[[], None] = nothing
    now: float = 0.0
    happened: list[str] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    probed: list[float] = field(default_factory=list)

    def check_alive(self) -> None:
        self.alive()

    def health(self) -> Health:
        self.asked.append(self.now)
        return self.healthy()

    def probe(self, seconds: float) -> None:
        assert seconds == TIMING.hung
        self.probed.append(self.now)
        self.works()

    def kill(self) -> None:
        self.happened.append("killed")

    def restart(self) -> None:
        self.happened.append("started")

    def wait_ready(self) -> None:
        self.starts()
        self.happened.append("ready")

    def sleep(self, seconds: float) -> None:
        for thread in threading.enumerate():
            if thread.name == "watch":
                thread.join(10)
        self.now += seconds
        if self.now > self.seconds:
            raise Enough

    def watched(self) -> str:
        """Until it is given up, or the time is over."""

        def failed(reason: str, pause: float) -> None:
            self.happened.append(reason)
            self.pauses.append(pause)

        try:
            supervise(
                self, TIMING, failed, lambda: self.happened.append("again"), lambda: self.now, self.sleep
            )
        except StartError as error:
            return str(error)
        except Enough:
            return "the time is over"


def fails(*errors: Exception | None) -> Callable[[], None]:
    """Raises these one after the other, then nothing."""
    left: Iterator[Exception | None] = iter(errors)

    def check() -> None:
        error = next(left, None)
        if error is not None:
            raise error

    return check


def always(error: Exception) -> Callable[[], None]:
    def check() -> None:
        raise error

    return check


def after(check: Callable[[], None]) -> Callable[[], Health]:
    def answer() -> Health:
        check()
        return WELL

    return answer


def test_a_server_that_is_well_is_left_alone() -> None:
    server = Server()
    assert server.watched() == "the time is over"
    assert server.happened == []
    assert 150 <= len(server.asked) <= 200
    assert 14 <= len(server.probed) <= 16


def test_one_whose_process_has_died_is_started_again_at_once() -> None:
    server = Server(alive=fails(None, None, StartError("the process of florence2 has died (pid 7)")))
    assert server.watched() == "the time is over"
    assert server.happened == [
        "the process of florence2 has died (pid 7)",
        "killed",
        "started",
        "ready",
        "again",
    ]
    assert server.pauses == [0]


def test_one_that_is_not_well_three_times_in_a_row_is_started_again() -> None:
    silent = NoAnswer("no answer within 8 s")
    told = Refused("UNAVAILABLE: florence2 has not answered for 5 s whether it is well")
    server = Server(healthy=after(fails(silent, silent, None, silent, silent, told)))
    assert server.watched() == "the time is over"
    assert server.happened[0] == f"the server is not well: {told}"
    assert server.happened.count("started") == 1
    assert server.asked[5] <= 6 * (TIMING.health + 1)


def test_one_that_does_no_work_is_started_again() -> None:
    server = Server(works=fails(None, Hangs("sam2_mask_decoder has answered nothing for 120 s")))
    assert server.watched() == "the time is over"
    assert server.happened[0] == "sam2_mask_decoder has answered nothing for 120 s"
    assert server.happened.count("again") == 1


def test_one_whose_work_fails_is_asked_again_first() -> None:
    broken = Refused("internal error in florence2, reference 1234")
    server = Server(works=fails(broken, broken, None, broken, broken, broken))
    assert server.watched() == "the time is over"
    assert server.happened[0] == f"the server fails: {broken}"
    assert server.happened.count("started") == 1


def test_pauses_grow_and_at_last_it_is_given_up() -> None:
    server = Server(alive=always(StartError("the process of florence2 has died (pid 7)")))
    assert (
        server.watched()
        == f"the process of florence2 has died (pid 7); given up after {MAX_RESTARTS} restarts"
    )
    assert server.pauses == [0, 0.25, 0.5, 1, 2]
    assert server.happened.count("again") == MAX_RESTARTS


def test_a_restart_that_fails_is_tried_again_and_counts() -> None:
    server = Server(
        alive=fails(None, StartError("dead")),
        starts=fails(StartError("not ready"), StartError("not ready")),
    )
    assert server.watched() == "the time is over"
    assert server.happened == [
        *("dead", "killed", "started"),
        *("not ready", "killed", "started"),
        *("not ready", "killed", "started", "ready", "again"),
    ]
    assert server.pauses == [0, 0.25, 0.5]
    never = Server(alive=fails(StartError("dead")), starts=always(StartError("no memory")))
    assert never.watched() == f"no memory; given up after {MAX_RESTARTS} restarts"


def test_failures_far_apart_are_forgotten() -> None:
    server = Server(seconds=20 * RESTARTS_SECONDS)
    next_death = RESTARTS_SECONDS / 2

    def dies() -> None:
        nonlocal next_death
        if server.now >= next_death:
            next_death = server.now + RESTARTS_SECONDS / 2
            raise StartError("dead")

    server.alive = dies
    assert server.watched() == "the time is over"
    assert server.happened.count("again") >= 35
    assert max(server.pauses) <= 0.5


def test_a_fault_of_the_supervisor_is_not_swallowed() -> None:
    server = Server(healthy=after(always(ZeroDivisionError("a bug"))))
    with pytest.raises(ZeroDivisionError):
        server.watched()
