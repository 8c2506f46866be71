"""Whether a server whose processes all run does its work: when to ask it what, and what its answers mean.

Nothing here has a clock or a connection: the supervisor says what time it is and what it has heard.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from florence2_sam2.server.settings import Settings

# So many questions in a row without a good answer mean that the server is not well.
FAILURES = 3
# An idle server spends at most one second of so many on real requests: with large models one takes many seconds.
PROBE_SHARE = 20.0


@dataclass(frozen=True)
class Timing:
    """In seconds. `health`: between two health requests; `probe`: between two real ones; 0: never. `hung`: after so
    long without progress the server hangs.
    """

    health: float = 5.0
    probe: float = 60.0
    hung: float = 120.0

    @classmethod
    def of(cls, settings: Settings) -> Timing:
        return cls(settings.health_seconds, settings.probe_seconds, settings.hung_seconds)


@dataclass(frozen=True)
class Health:
    """What a server tells of itself: see `server/triton/health.py`. `answers`: of each model, as Triton counts them."""

    in_flight: int
    progress: int
    waits_for: Mapping[str, float]
    decoder_still: float
    answers: Mapping[str, int]

    @property
    def idle(self) -> bool:
        return not (self.in_flight or self.waits_for or self.decoder_still)


class Watch:
    """Of one server, from when it is ready. What it hears, it answers with why the server hangs, or None."""

    def __init__(self, timing: Timing, now: float) -> None:
        self._timing = timing
        self._health_at = now + timing.health
        self._probe_at = now + timing.probe
        self._failures = self._failed_probes = 0
        self._last: Health | None = None
        self._moved = now
        self._answered: dict[str, float] = {}

    def health_is_due(self, now: float) -> bool:
        return self._timing.health > 0 and now >= self._health_at

    def probe_is_due(self, now: float) -> bool:
        """Only of a server that has nothing to do, as far as it has told."""
        idle = self._last is None or self._last.idle
        return self._timing.probe > 0 and now >= self._probe_at and idle

    def is_well(self, now: float, health: Health) -> str | None:
        """It has answered a health request."""
        self._health_at = now + self._timing.health
        self._failures = 0
        last, self._last = self._last, health
        for model, count in health.answers.items():
            if last is None or last.answers.get(model) != count:
                self._answered[model] = now
        if last is None or health.in_flight == 0 or health.progress != last.progress:
            self._moved = now
        return self._hangs(now, health)

    def is_not_well(self, now: float, reason: str) -> str | None:
        """A health request has failed, or was not answered."""
        self._health_at = now + self._timing.health
        self._failures += 1
        return f"the server is not well: {reason}" if self._failures >= FAILURES else None

    def has_served(self, now: float, seconds: float) -> None:
        """A real request was answered within `seconds`."""
        self._failed_probes = 0
        self._probe_at = now + max(self._timing.probe, PROBE_SHARE * seconds)

    def has_not_served(self, now: float, reason: str) -> str | None:
        """A real request has failed: it is tried again soon."""
        self._failed_probes += 1
        self._probe_at = now + min(self._timing.health or self._timing.probe, self._timing.probe)
        return f"the server fails: {reason}" if self._failed_probes >= FAILURES else None

    def has_hung(self, now: float, reason: str, passed: Collection[str] = ()) -> str | None:
        """A real request was not answered, for a model behind those that it has `passed` answers nobody. Where calls
        wait for one of these, the request may in truth be among them: then health requests find out who hangs.
        """
        waited_for = self._last.waits_for if self._last is not None else {}
        if any(model in waited_for for model in passed):
            return self.has_not_served(now, reason)
        return reason

    def _hangs(self, now: float, health: Health) -> str | None:
        hung = self._timing.hung
        if health.decoder_still >= hung:
            return f"florence2 has written nothing for {health.decoder_still:.0f} s"
        for model, seconds in health.waits_for.items():
            # Calls that come from elsewhere may stand before those that wait.
            if seconds >= hung and now - self._answered.get(model, now) >= hung:
                return f"{model} has answered nothing for {seconds:.0f} s"
        if now - self._moved >= hung:
            return f"of {health.in_flight} requests in flight none has moved on for {now - self._moved:.0f} s"
        return None
