"""A small process beside a run: whatever ends the run, nothing of the Ray that it has started stays behind.

Killed, a run takes most of Ray's processes with it, but some would stay for a minute, and its files for ever. What was
started for a run carries the run's mark in its environment, so that nothing else is ended. Linux only; elsewhere it
does nothing.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

VARIABLE = "FLORENCE2_SAM2_BULK_RUN"
_SECONDS = 3.0  # for Ray to end its processes by itself


class Guard:
    """A context manager: processes that are started within it carry the mark; all are gone afterwards.

    Args:
        folder: is removed in the end, when nothing writes to it any more.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._mark = folder, secrets.token_hex(16)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "florence2_sam2.bulk.guard", self._mark, str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the run
        )
        os.environ[VARIABLE] = self._mark
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del os.environ[VARIABLE]
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def clean(mark: str, folder: Path) -> None:
    """End what carries the mark, after a moment, and remove the folder."""
    end = time.monotonic() + _SECONDS
    while marked(mark) and time.monotonic() < end:
        time.sleep(0.05)
    while left := marked(mark):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def marked(mark: str) -> list[int]:
    """Processes, but this one, that were started with the mark."""
    wanted = f"{VARIABLE}={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0") and int(folder.name) != os.getpid():
                found.append(int(folder.name))
    return found


if __name__ == "__main__":
    sys.stdin.buffer.read()  # until the run closes it, or is no more
    clean(sys.argv[1], Path(sys.argv[2]))
