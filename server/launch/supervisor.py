"""Keeping a server running. Triton goes on, and says READY, when one of its models' processes has died or hangs; so
they are watched, and the server is asked whether it is well, and for real work when nobody else does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, NoReturn, Protocol, TypeVar

from florence2_sam2.server.launch.connection import NoAnswer, Refused
from florence2_sam2.server.launch.errors import StartError
from florence2_sam2.server.launch.probe import Hangs
from florence2_sam2.server.launch.watch import Health, Timing, Watch

T = TypeVar("T")

POLL_SECONDS = 0.25
# More failures than this, within so much time in which the server was ready, mean that restarting does not help.
MAX_RESTARTS = 5
RESTARTS_SECONDS = 300.0
# Before the second restart; each further one waits twice as long. Short, since callers wait too.
FIRST_PAUSE = 0.25


class Server(Protocol):
    """What the supervisor needs of an `EmbeddedServer`."""

    def check_alive(self) -> None:
        """Raises StartError: a process has died."""

    def health(self) -> Health:
        """Raises NoAnswer, Refused: it is not well."""

    def probe(self, seconds: float) -> None:
        """Raises Hangs, NoAnswer, Refused: it cannot do its work within `seconds`."""

    def kill(self) -> None: ...

    def restart(self) -> None: ...

    def wait_ready(self) -> None: ...


class Asked(Generic[T]):
    """A question under way in a thread of its own, which dies with this process."""

    def __init__(self, question: Callable[[], T]) -> None:
        self._result: T | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(question,), name="watch", daemon=True)
        self._thread.start()

    def _run(self, question: Callable[[], T]) -> None:
        try:
            self._result = question()
        except BaseException as error:
            self._error = error

    def ended(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> T:
        """What has been answered, or the error raised."""
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]


class Restarts:
    """How often the server may be started again."""

    def __init__(self) -> None:
        self._failures: list[float] = []

    def pause(self, reason: str, ready_seconds: float) -> float:
        """Seconds to wait before the next start.

        Args:
            ready_seconds: for how long the server has been ready by now, in all.

        Raises:
            StartError: it has failed too often.
        """
        self._failures = [then for then in self._failures if ready_seconds - then < RESTARTS_SECONDS]
        if len(self._failures) == MAX_RESTARTS:
            raise StartError(f"{reason}; given up after {MAX_RESTARTS} restarts")
        self._failures.append(ready_seconds)
        before = len(self._failures) - 1
        return FIRST_PAUSE * 2.0 ** (before - 1) if before else 0.0


def supervise(
    server: Server,
    timing: Timing,
    on_failure: Callable[[str, float], None],
    on_ready: Callable[[], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> NoReturn:
    """Watch a ready server, and start it again when it has died or hangs. An exception ends it.

    Args:
        on_failure: called with what has happened and the seconds until the restart.
        on_ready: called after the restart.

    Raises:
        StartError: the server fails again and again.
    """
    restarts, ready_seconds = Restarts(), 0.0
    while True:
        began = clock()
        reason: str | None = _until_it_fails(server, timing, clock, sleep)
        ready_seconds += clock() - began
        while reason is not None:
            pause = restarts.pause(reason, ready_seconds)
            on_failure(reason, pause)
            reason = _restarted(server, pause, sleep)
        on_ready()


def _restarted(server: Server, pause: float, sleep: Callable[[float], None]) -> str | None:
    """Start it again; why that has failed, or None."""
    server.kill()
    sleep(pause)
    try:
        server.restart()
        server.wait_ready()
    except StartError as error:
        return str(error)
    return None


def _until_it_fails(
    server: Server, timing: Timing, clock: Callable[[], float], sleep: Callable[[float], None]
) -> str:
    """What has happened."""
    watch = Watch(timing, clock())
    health: Asked[Health] | None = None
    probe: Asked[float] | None = None

    def served() -> float:
        began = clock()
        server.probe(timing.hung)
        return clock() - began

    while True:
        try:
            server.check_alive()
        except StartError as error:
            return str(error)
        reason = None
        if health is not None and health.ended():
            reason = _heard_health(watch, health, clock())
            health = None
        if probe is not None and probe.ended():
            reason = _heard_probe(watch, probe, clock()) or reason
            probe = None
        if reason:
            return reason
        if health is None and watch.health_is_due(clock()):
            health = Asked(server.health)
        if probe is None and watch.probe_is_due(clock()):
            probe = Asked(served)
        sleep(POLL_SECONDS)


def _heard_health(watch: Watch, asked: Asked[Health], now: float) -> str | None:
    try:
        return watch.is_well(now, asked.result())
    except (NoAnswer, Refused) as error:
        return watch.is_not_well(now, str(error))


def _heard_probe(watch: Watch, asked: Asked[float], now: float) -> str | None:
    try:
        watch.has_served(now, asked.result())
    except Hangs as error:
        return watch.has_hung(now, str(error), error.passed)
    except (NoAnswer, Refused) as error:
        return watch.has_not_served(now, str(error))
    return None
