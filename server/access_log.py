"""The access log: one line of JSON for each call that has ended.

Every model that users call is a process of its own and writes by itself. A line is one write to a file that is opened
for appending, so lines of several processes do not mix. The file is looked for again each second: whoever rotates logs
may move it away.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

STANDARD_OUTPUT = "-"
LOOK_SECONDS = 1.0
COMPLAIN_SECONDS = 60.0
_MODE = 0o640  # who called, and when: for this user and the group that reads logs


def check(path: str) -> None:
    """Whether lines can be written there.

    Raises:
        ValueError: they cannot; one line that says why.
    """
    if path == STANDARD_OUTPUT:
        return
    if Path(path).is_dir():
        raise ValueError("access_log: this is a folder, the path of a file is needed")
    try:
        os.close(_opened(path, os.O_NONBLOCK))  # a pipe that nobody reads would hold up the start
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise ValueError(f"access_log: the file cannot be written ({reason})") from None


class AccessLog:
    """Writes lines. Belongs to one thread, which may have to wait for a slow disk; nothing is ever raised.

    Args:
        path: of the file, or STANDARD_OUTPUT.
        complain: is told, once a minute at most, that lines are lost and why.
    """

    def __init__(
        self,
        path: str,
        complain: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._complain, self._clock = path, complain, clock
        self._file: int | None = None
        self._identity: tuple[int, int] | None = None
        self._look_at = self._complain_at = float("-inf")
        self._cut = False
        self.lost = 0

    def write(self, line: bytes) -> None:
        """One line, without its end. What cannot be written is lost, and counted."""
        # The rest of a line that a full disk has cut off must not swallow the next one.
        data = (b"\n" if self._cut else b"") + line + b"\n"
        try:
            written = os.write(self._descriptor(), data)
        except OSError as error:
            self.lose(1, error.strerror or "unknown reason")
            self.close()
            return
        self._cut = written < len(data)
        if self._cut:
            self.lose(1, "no space")

    def lose(self, lines: int, why: str) -> None:
        """So many lines will not be written."""
        self.lost += lines
        if self._clock() >= self._complain_at:
            self._complain_at = self._clock() + COMPLAIN_SECONDS
            self._complain(f"access log: {self.lost} lines are lost so far ({why})")

    def close(self) -> None:
        if self._file is not None and self._path != STANDARD_OUTPUT:
            with contextlib.suppress(OSError):
                os.close(self._file)
        self._file = None

    def _descriptor(self) -> int:
        if self._path == STANDARD_OUTPUT:
            return sys.__stdout__.fileno() if sys.__stdout__ else 1
        if self._file is not None and self._clock() >= self._look_at:
            self._look_at = self._clock() + LOOK_SECONDS
            if _identity_of(self._path) != self._identity:
                self.close()
        if self._file is None:
            self._look_at = self._clock() + LOOK_SECONDS
            self._file = _opened(self._path)
            told = os.fstat(self._file)
            self._identity = told.st_dev, told.st_ino
            self._cut = False
        return self._file


def _opened(path: str, more: int = 0) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | more, _MODE)


def _identity_of(path: str) -> tuple[int, int] | None:
    try:
        told = os.stat(path)
    except OSError:
        return None
    return told.st_dev, told.st_ino
