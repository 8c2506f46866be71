"""Memory of a server's processes while it works."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.fullsize.serving import descendants, kilobytes
from florence2_sam2.server.launch import guard

SHARED = Path("/dev/shm")
EVERY_SECONDS = 0.1


@dataclass
class Taken:
    """Megabytes. `pss`: of all processes, pages that several share divided among them, shared memory included.
    `shm`: what the server's files in /dev/shm hold. `total`: both, each page once."""

    pss: float = 0.0
    shm: float = 0.0
    total: float = 0.0


def taken(pids: list[int], shm_prefix: str) -> Taken:
    """What those processes have now."""
    pss = pss_shm = 0
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup")
            pss += kilobytes(rollup, "Pss:")
            pss_shm += kilobytes(rollup, "Pss_Shmem:")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
    # Blocks, not sizes: a region of which nothing was touched takes no memory.
    files = [file.stat().st_blocks * 512 for file in SHARED.iterdir() if file.name.startswith(shm_prefix)]
    shm = sum(files) / 2**20
    # What of the files no process has mapped at the moment is in nobody's PSS.
    return Taken(pss / 1024, shm, pss / 1024 + max(shm - pss_shm / 1024, 0))


def server_processes() -> list[int]:
    """The guards of servers that this process has started, and all below them."""
    found = []
    for pid in descendants(os.getpid()):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if guard.__name__.encode() in command:
            found += [pid, *descendants(pid)]
    return found


class Peak:
    """The largest total seen, and how often it was looked at."""

    def __init__(self) -> None:
        self.at_peak = Taken()
        self.looks = 0

    def look(self, shm_prefix: str) -> None:
        now = taken(server_processes(), shm_prefix)
        self.looks += 1
        if now.total > self.at_peak.total:
            self.at_peak = now


@contextmanager
def watched(shm_prefix: str, every: float = EVERY_SECONDS) -> Iterator[Peak]:
    """The peak of this process's server for as long as the context lasts."""
    peak, over = Peak(), threading.Event()

    def watch() -> None:
        while not over.is_set():
            began = time.perf_counter()
            peak.look(shm_prefix)
            over.wait(max(every - (time.perf_counter() - began), every / 2))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()
        peak.look(shm_prefix)
