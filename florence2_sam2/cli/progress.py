"""How far many pictures are: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

BAR_WIDTH = 24
BAR_SECONDS, LINE_SECONDS = 0.1, 30.0


class Progress:
    """Pictures of `total` (None: not known), `done` of which an earlier run has seen to.

    On a terminal a bar, below whatever else is written through `above`; elsewhere a line every LINE_SECONDS.
    """

    def __init__(
        self,
        total: int | None,
        done: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._before = total, done
        self._now = self._failed = self._objects = 0
        self._stream = stream or sys.stderr
        self._bar = self._stream.isatty()
        self._clock = clock
        self._began = self._shown = clock()

    def step(self, objects: int | None) -> None:
        """One more picture; None objects: it has failed."""
        self.reach(self._now + 1, self._failed + (objects is None), self._objects + (objects or 0))

    def reach(self, pictures: int, failed: int, objects: int) -> None:
        """So many pictures are done now, beside those of an earlier run."""
        self._now, self._failed, self._objects = pictures, failed, objects
        now = self._clock()
        if now - self._shown >= (BAR_SECONDS if self._bar else LINE_SECONDS):
            self._shown = now
            self._show()

    def above(self, write: Callable[[], None]) -> None:
        """Let `write` write to the terminal above the bar."""
        self._clear()
        write()
        if self._bar and self._now:
            self._show()

    def end(self) -> str:
        """Take the bar away; a sentence about the whole."""
        self._clear()
        seconds = self._clock() - self._began
        earlier = f", {self._before} were done before" if self._before else ""
        failed = f", {self._failed} failed" if self._failed else ""
        return (
            f"{self._now} pictures in {duration(seconds)} ({self._rate(seconds):.2g}/s),"
            f" {self._objects} objects{failed}{earlier}"
        )

    def _rate(self, seconds: float) -> float:
        return self._now / max(seconds, 1e-3)

    def _show(self) -> None:
        at = self._before + self._now
        rate = self._rate(self._clock() - self._began)
        parts = [f"{at} of {self._total}" if self._total is not None else str(at), f"{rate:.2g}/s"]
        if self._total is not None and rate:
            parts.append(f"{duration((self._total - at) / rate)} left")
        if self._failed:
            parts.append(f"{self._failed} failed")
        text = ", ".join(parts)
        if not self._bar:
            print(text, file=self._stream, flush=True)
            return
        filled = "" if not self._total else "█" * round(BAR_WIDTH * at / self._total)
        bar = f"{filled:·<{BAR_WIDTH}} " if self._total else ""
        self._stream.write(f"\r\033[K{bar}{text}")
        self._stream.flush()

    def _clear(self) -> None:
        if self._bar:
            self._stream.write("\r\033[K")
            self._stream.flush()


def duration(seconds: float) -> str:
    """As `7 s`, `3:05` or `1:02:09`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
