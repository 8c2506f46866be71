"""How far a download is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

LINE_SECONDS = 10.0
BAR_SECONDS = 0.1
BAR_WIDTH = 30

Say = Callable[[str], None]


class Progress:
    """Bytes of one repository. `done` of its `total` are there already.

    Args:
        say: gets a line where `stream` is no terminal.
        stream: the terminal for the bar.
    """

    def __init__(self, what: str, total: int, done: int, say: Say, stream: TextIO | None = None) -> None:
        self._what = what
        self._total = total
        self._done = self._began_with = done
        self._say = say
        self._stream = stream or sys.stderr
        self._bar = self._stream.isatty()
        self._began = self._shown = time.monotonic()

    def advance(self, count: int) -> None:
        """`count` more bytes; fewer than zero where a download starts again."""
        self._done += count
        now = time.monotonic()
        if now - self._shown >= (BAR_SECONDS if self._bar else LINE_SECONDS):
            self._shown = now
            self._show()

    def interrupt(self, text: str) -> None:
        """A line between, for what has happened."""
        if self._bar:
            self._stream.write("\r\033[K")
        self._say(text)

    def finish(self) -> None:
        if self._bar:
            self._stream.write("\r\033[K")
            self._stream.flush()
        seconds = time.monotonic() - self._began
        fetched = self._done - self._began_with
        self._say(f"{self._what}: {megabytes(fetched)} downloaded in {seconds:.1f} s")

    def _show(self) -> None:
        share = self._done / self._total if self._total else 1.0
        rate = (self._done - self._began_with) / max(time.monotonic() - self._began, 1e-3)
        text = f"{megabytes(self._done)} of {megabytes(self._total)}, {megabytes(int(rate))}/s"
        if self._bar:
            full = round(share * BAR_WIDTH)
            self._stream.write(f"\r\033[K{self._what} {'█' * full}{'·' * (BAR_WIDTH - full)} {text}")
            self._stream.flush()
        else:
            self._say(f"{self._what}: {share:.0%}, {text}")


def megabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
