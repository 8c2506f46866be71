"""What the server's processes hold, looked at once a second: memory, descriptors, threads, shared memory."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.fullsize.serving import kilobytes
from bench.speed.memory import SHARED, server_processes, taken

PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True)
class Look:
    """Sums over the server's processes at one moment. Sizes are megabytes.

    `rss`: pages that several share count in each. `pss`: they are divided among them. `shm`: what the server's files in
    /dev/shm hold. `total`: each page once, shared memory included. `regions`: how many such files there are.
    `private`: by process, its pages that no file and no shared memory stands behind, where a leak would be.
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
    private: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def look(pids: Sequence[int], shm_prefix: str, seconds: float = 0.0) -> Look:
    """What those processes hold now. One that has ended holds nothing."""
    memory = taken(list(pids), shm_prefix)
    rss = descriptors = threads = 0
    private = {}
    for pid in pids:
        folder = Path("/proc") / str(pid)
        try:
            rss += int((folder / "statm").read_text().split()[1])
            descriptors += len(os.listdir(folder / "fd"))
            threads += len(os.listdir(folder / "task"))
            private[_named(folder)] = kilobytes(folder / "status", "RssAnon:") / 1024
        except (FileNotFoundError, ProcessLookupError):
            continue
    regions = sum(file.name.startswith(shm_prefix) for file in SHARED.iterdir())
    return Look(
        *(seconds, rss * PAGE_MB, memory.pss, memory.shm, memory.total),
        *(descriptors, threads, regions, tuple(pids), private),
    )


def _named(folder: Path) -> str:
    """The process's id and what it is: a model, or the name of its program."""
    words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
    models = [Path(word).parts[-3] for word in words if word.endswith("/model.py")]
    return f"{folder.name} {(models or [(folder / 'comm').read_text().strip()])[0]}"


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
