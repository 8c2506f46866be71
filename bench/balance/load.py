"""Steady calls of several callers with the project's own client, and what became of each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from bench.load.wire import with_comment
from bench.speed.figures import percentile
from florence2_sam2.client import Segmenter

CALL_SECONDS = 120.0


@dataclass(frozen=True)
class Call:
    """One call, its retries included. Times are seconds of the monotonic clock; `fault` is empty where it was answered;
    `models` is what the answer says of them."""

    sent: float
    ended: float
    fault: str = ""
    models: Any = None

    @property
    def seconds(self) -> float:
        return self.ended - self.sent

    @property
    def checkpoint(self) -> str:
        """Florence-2's checkpoint that has answered; empty where nothing has."""
        return str(self.models["florence2"]["checkpoint"]) if self.models else ""


class Load:
    """`callers` callers, each with a client of its own, ask every `period` seconds, or when their last call has ended
    if that is later. They do so within the context.

    Args:
        opened: makes a client.
        pictures: JPEG files; each call sends one that differs from all others.
    """

    def __init__(
        self, opened: Callable[[], Segmenter], pictures: Sequence[bytes], callers: int, period: float
    ) -> None:
        self._opened, self._pictures, self._period = opened, pictures, period
        self._calls: list[Call] = []
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number, number * period / callers), daemon=True)
            for number in range(callers)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(CALL_SECONDS + 10)

    @property
    def calls(self) -> list[Call]:
        """Those that have ended so far."""
        return list(self._calls)

    def _run(self, caller: int, delay: float) -> None:
        if self._over.wait(delay):
            return
        count = 0
        with self._opened() as segmenter:
            while not self._over.is_set():
                file = self._pictures[(caller + count) % len(self._pictures)]
                picture = with_comment(file, b"%d of %d" % (count, caller))
                count += 1
                sent = time.monotonic()
                try:
                    answer = segmenter.segment(picture, timeout=CALL_SECONDS)
                    fault = "" if answer.width > 0 else "no answer in it"
                    self._calls.append(Call(sent, time.monotonic(), fault, answer.models))
                except Exception as error:  # whatever it is, the call is lost
                    self._calls.append(Call(sent, time.monotonic(), f"{type(error).__name__}: {error}"))
                self._over.wait(max(sent + self._period - time.monotonic(), 0.0))


@dataclass(frozen=True)
class Figures:
    """What happened to the calls that ended in a stretch of time. Seconds; NaN where none was answered."""

    calls: int
    faults: list[str]
    p50: float
    p95: float
    slowest: float

    @classmethod
    def of(cls, calls: Sequence[Call], begin: float, end: float) -> Figures:
        within = [call for call in calls if begin <= call.ended < end]
        seconds = [call.seconds for call in within if not call.fault] or [float("nan")]
        return cls(
            len(within),
            [call.fault for call in within if call.fault],
            percentile(seconds, 0.5),
            percentile(seconds, 0.95),
            max(seconds),
        )
