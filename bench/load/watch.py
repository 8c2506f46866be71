"""What the server's processes hold, looked at once a second: memory, descriptors, threads, shared memory."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.speed.memory import SHARED, server_processes, taken

PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True)
class Look:
    """Sums over the server's processes at one moment. Sizes are megabytes.

    `rss`: pages that several share count in each. `pss`: they are divided among them. `shm`: what the server's files in
    /dev/shm hold. `total`: each page once, shared memory included. `regions`: how many such files there are.
    """

    seconds: float
    rss: float
    pss: float
    shm: float
    total: float
    descriptors: int
    threads: int
    regions: int
    processes: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def look(pids: Sequence[int], shm_prefix: str, seconds: float = 0.0) -> Look:
    """What those processes hold now. One that has ended holds nothing."""
    memory = taken(list(pids), shm_prefix)
    rss = descriptors = threads = 0
    for pid in pids:
        folder = Path("/proc") / str(pid)
        try:
            rss += int((folder / "statm").read_text().split()[1])
            descriptors += len(os.listdir(folder / "fd"))
            threads += len(os.listdir(folder / "task"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    regions = sum(file.name.startswith(shm_prefix) for file in SHARED.iterdir())
    return Look(
        *(seconds, rss * PAGE_MB, memory.pss, memory.shm, memory.total),
        *(descriptors, threads, regions, tuple(pids)),
    )


class Watch:
    """Looks at this process's server from a thread, for as long as the context lasts."""

    def __init__(self, shm_prefix: str, every: float = 1.0) -> None:
        self.looks: list[Look] = []
        self._prefix, self._every = shm_prefix, every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def now(self) -> Look:
        return look(server_processes(), self._prefix, time.monotonic() - self._began)

    def _run(self) -> None:
        while not self._over.is_set():
            self.looks.append(self.now())
            next_look = self._began + len(self.looks) * self._every
            self._over.wait(max(next_look - time.monotonic(), 0.01))
