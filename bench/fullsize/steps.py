"""One step of the way: a process of its own, so that its peak memory is its own, run once and then remembered."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Measured:
    """Wall and processor time, and the largest resident memory of the step's process (or of one of its children)."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


class StepFailed(Exception):
    """A step ended with an error; what it printed says why."""


class Steps:
    """The steps of a folder. What has finished is in `steps.json` and is not run again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "steps.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.done: dict[str, Measured] = {}
        if self._file.exists():
            rows = json.loads(self._file.read_text(encoding="utf-8"))
            self.done = {name: Measured(**row) for name, row in rows.items()}

    def run(self, name: str, command: Sequence[str | Path]) -> None:
        """Run `python -m command…`, unless a step of that name has finished before.

        Raises:
            StepFailed: it exits with another code than 0.
        """
        if name in self.done:
            return
        print(f"{time.strftime('%H:%M:%S')} {name}", file=sys.stderr, flush=True)
        arguments = [sys.executable, "-W", "ignore", "-m", *map(str, command)]
        started = time.perf_counter()
        pid = os.posix_spawn(sys.executable, arguments, os.environ)
        _, status, usage = os.wait4(pid, 0)
        if os.waitstatus_to_exitcode(status) != 0:
            raise StepFailed(f"{name} failed: {' '.join(arguments[4:])}")
        self.done[name] = Measured(
            round(time.perf_counter() - started, 1),
            round(usage.ru_utime + usage.ru_stime, 1),
            round(usage.ru_maxrss / 1024),  # kilobytes on Linux
        )
        rows = {step: asdict(measured) for step, measured in self.done.items()}
        self._file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")

    def report(self, name: str) -> Path:
        """Where a step that has more to tell writes it, as JSON."""
        return self.folder / f"{name.replace(' ', '-')}.json"

    def told(self, name: str) -> dict[str, Any] | None:
        path = self.report(name)
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
