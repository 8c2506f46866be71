"""Callers that ask at once, and what became of each call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.speed.figures import percentile

Ask = Callable[[int], object]
"""Sends call number n and returns when it is answered; what it raises is the call's error."""


@dataclass(frozen=True)
class Call:
    """One call: seconds of `clock` at which it began and ended, and what it raised, if it did."""

    number: int
    began: float
    ended: float
    error: str = ""
    answer: object = field(default=None, repr=False, compare=False)

    @property
    def seconds(self) -> float:
        return self.ended - self.began


class CallsFailed(Exception):
    """Calls of a measurement have failed: its times mean nothing."""


@dataclass(frozen=True)
class Load:
    """Calls in the order of their numbers, and the seconds that they are counted over."""

    calls: list[Call]
    seconds: float

    @property
    def throughput(self) -> float:
        """Answers a second."""
        return len(self.calls) / self.seconds

    def latency(self, share: float) -> float:
        """Seconds that `share` of the calls took at most."""
        return percentile([call.seconds for call in self.calls], share)

    def answers(self) -> list[object]:
        return [call.answer for call in self.calls]


def load(ask: Ask, callers: int, calls_each: int = 1, clock: Callable[[], float] = time.perf_counter) -> Load:
    """`callers` callers begin at once; each asks `calls_each` times, the next time as soon as it is answered.

    Caller c's calls have the numbers c * calls_each and following. Every call counts, and the seconds are those from
    the first one's beginning to the last one's end: nothing is cut off at either end, where half-done calls would be
    counted for too much or too little.

    Raises:
        CallsFailed: one of the calls has; its caller has stopped there.
    """
    calls: list[Call] = []
    ready = threading.Barrier(callers)

    def caller(which: int) -> None:
        ready.wait()
        for number in range(which * calls_each, (which + 1) * calls_each):
            call = _call(ask, number, clock)
            calls.append(call)
            if call.error:
                return

    threads = [threading.Thread(target=caller, args=(which,)) for which in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    failed = [call for call in calls if call.error]
    if failed:
        raise CallsFailed(f"{len(failed)} of {len(calls)} calls have failed, the first: {failed[0].error}")
    calls.sort(key=lambda call: call.number)
    return Load(calls, max(call.ended for call in calls) - min(call.began for call in calls))


def _call(ask: Ask, number: int, clock: Callable[[], float]) -> Call:
    began = clock()
    error, answer = "", None
    try:
        answer = ask(number)
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    return Call(number, began, clock(), error, answer)
