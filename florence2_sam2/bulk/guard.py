"""A small process beside a run: whatever ends the run, nothing of the Ray that it has started stays behind.

Killed, a run takes most of Ray's processes with it, but some would stay for a minute, and its files for ever. Ray's
processes are known by the files that they have open in the run's own folder: their environment and command line they
overwrite. Linux only; elsewhere it only removes the files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

_SECONDS = 3.0  # for Ray to end its processes by itself


class Guard:
    """A context manager: afterwards `folder`, and whatever has files open in it, is gone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "florence2_sam2.bulk.guard", str(os.getpid()), str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the run
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def clean(folder: Path, run: int) -> None:
    """End what works in the folder, after a moment, and remove it; `run`, the process of the run, is left alone."""
    # Whoever has killed the run wants it to end; else Ray has just been told to.
    end = time.monotonic() + (_SECONDS if os.getppid() == run else 0)
    while at_work_in(folder, run) and time.monotonic() < end:
        time.sleep(0.05)
    while left := at_work_in(folder, run):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def at_work_in(folder: Path, run: int) -> list[int]:
    """Processes that have files open in the folder, but for the run's."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            opened = [os.readlink(link) for link in (process / "fd").iterdir()]
            if any(name.startswith(f"{folder}/") for name in opened) and int(process.name) != run:
                found.append(int(process.name))
    return found


if __name__ == "__main__":
    sys.stdin.buffer.read()  # until the run closes it, or is no more
    clean(Path(sys.argv[2]), int(sys.argv[1]))
