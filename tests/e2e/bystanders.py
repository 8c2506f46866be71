"""What goes on at a server beside a test: an ordinary client, whom nothing may hurt, and how much memory is taken."""

from __future__ import annotations

import contextlib
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bad_input import without_times
from calls import until
from drawn import SCENE

from bench.speed.memory import server_processes, taken
from florence2_sam2.client import Segmenter
from florence2_sam2.server.launch.embedded import EmbeddedServer

# Settings of the ordinary calls: other stages, decodings and lengths.
ORDINARY: list[dict[str, Any]] = [
    {"area_threshold": 1},
    {"num_beams": 1, "formats": ("rle",)},
    {"caption": "A red ball next to a blue square.", "output_mask": True},
    {"boxes": [[20, 20, 80, 80]], "polygon_precision": 0},
]
PAUSE_SECONDS = 0.5  # between ordinary calls: the machine has few cores, and the tests need them too
GIVEN_BACK_SECONDS = 2.0  # Python's own look for garbage, which is no giving back, comes later
SLOW_SECONDS = 10.0  # for an ordinary call, or on a busy machine
SLOW_TIMES = 20.0  # as many times as long as it took at first
GROWN_MB = 150.0


class Watch:
    """An ordinary client that calls again and again, and the server's memory, for as long as it is entered.

    Each picture comes in bytes of its own, so that nothing is remembered of it and every stage works. Each answer must
    be the one that the same call got when nothing else was going on.
    """

    def __init__(self, server: EmbeddedServer) -> None:
        self._server = server
        self._client = Segmenter(server.grpc_address, timeout=120)
        self._number = 0
        # What is taken once and kept: with so many boxes the mask decoder works on as many as it ever does at once, in
        # its session for a call that is alone, and in the one for several.
        for callers in (1, 4):
            with ThreadPoolExecutor(callers) as pool:
                list(pool.map(self._many_boxes, range(callers)))
        first = [self._ask(index) for index in range(len(ORDINARY))]
        self._first = [answer for answer, _ in first]
        self._slow = max(SLOW_SECONDS, SLOW_TIMES * max(seconds for _, seconds in first))
        self._memory_mb = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread()
        self.calls = 0
        self.faults: list[str] = []

    def close(self) -> None:
        self._client.close()

    def _many_boxes(self, number: int) -> None:
        boxes = [[20 + number, 20, 80, 80]] * 64
        self._client.segment(SCENE, boxes=boxes, nms_threshold=0)

    def __enter__(self) -> Self:
        self.calls, self.faults = 0, []
        self._memory_mb = self._taken()
        self._over.clear()
        self._thread = threading.Thread(target=self._call_again_and_again, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def check(self, megabytes: float = GROWN_MB) -> None:
        """Nothing has happened to the ordinary calls, nothing hangs, and the memory is what it was but for a bound."""
        assert not self.faults, self.faults
        assert self.calls > 0
        end = time.monotonic() + SLOW_SECONDS
        while self._number_of("requests_in_flight") and time.monotonic() < end:
            time.sleep(0.2)
        assert self._number_of("requests_in_flight") == 0, "a request has never been answered"
        grown = self._taken() - self._memory_mb
        assert grown < megabytes, f"the server has grown by {grown:.0f} MB"

    def _call_again_and_again(self) -> None:
        while not self._over.is_set():
            index = self.calls % len(ORDINARY)
            try:
                answer, seconds = self._ask(index)
            except Exception as error:  # whatever it is, it is what the test is about
                self.faults.append(f"ordinary call {self.calls}: {type(error).__name__}: {error}")
            else:
                if answer != self._first[index]:
                    self.faults.append(f"ordinary call {self.calls} is answered otherwise than at first")
                if seconds > self._slow:
                    self.faults.append(f"ordinary call {self.calls} took {seconds:.1f} s")
            self.calls += 1
            self._over.wait(PAUSE_SECONDS)

    def _ask(self, index: int) -> tuple[Any, float]:
        self._number += 1
        picture = SCENE + self._number.to_bytes(4, "big")  # what follows a PNG's end is ignored
        began = time.monotonic()
        answer = self._client.segment(picture, **ORDINARY[index])
        return (without_times(answer.raw), answer.mask_png), time.monotonic() - began

    def _taken(self) -> float:
        """MB of the server's processes and shared memory, without what its memory of pictures has by intention."""
        all_of_it = taken(processes(self._server), self._server.shm_prefix).total
        return all_of_it - self._number_of("memory_bytes") / 2**20

    def _number_of(self, name: str) -> float:
        with urllib.request.urlopen(f"http://{self._server.metrics_address}/metrics", timeout=10) as page:
            rows = page.read().decode().splitlines()
        return sum(float(row.split()[-1]) for row in rows if row.startswith(f"florence2_sam2_{name}"))


def processes(server: EmbeddedServer, *parts: str) -> list[int]:
    """Triton and its models' processes, those alone in whose command line one of `parts` stands if any is given."""
    found = []
    for pid in server_processes():
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
            if server.shm_prefix in command and (not parts or any(part in command for part in parts)):
                found.append(pid)
    return found


@dataclass
class Growth:
    """MB by which resident memory has exceeded what it was, at its peak and afterwards."""

    peak: float = 0.0
    left: float = 0.0


@contextlib.contextmanager
def growth(pids: list[int], to_be_left: float | None = None) -> Iterator[Growth]:
    """What those processes take while the context lasts, from Linux's own record of each one's peak.

    Args:
        to_be_left: less than so many MB are. An answer is there somewhat before what it was made from is given back, so
            that it is looked for some seconds.
    """
    seen = Growth()
    before = {}
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5\n")  # the peak is now what it has
        before[pid] = _resident(pid, "VmRSS")
    yield seen
    seen.peak = sum(max(_resident(pid, "VmHWM") - start, 0) for pid, start in before.items())

    def is_little() -> bool:
        seen.left = sum(_resident(pid, "VmRSS") - start for pid, start in before.items())
        return to_be_left is None or seen.left < to_be_left

    until(is_little, GIVEN_BACK_SECONDS)


def _resident(pid: int, row: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{row}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(row)
