"""What a server's processes do, seen from outside: whether they work, and what they hold."""

from __future__ import annotations

import contextlib
import os
import re
import time
import urllib.request
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from calls import until

from bench.speed.memory import taken

TICKS = os.sysconf("SC_CLK_TCK")
WINDOW_SECONDS = 0.2
# In one window, of all processes together. Doing nothing takes 1 ms or 2 (metrics, looking around); work, even on a
# machine that does something else too, takes a good part of the window.
IDLE_SECONDS = 0.03


class Activity:
    """Of a server whose processes are `pids` and whose metrics are at `metrics`, host:port."""

    def __init__(self, pids: Collection[int], metrics: str) -> None:
        self.pids = list(pids)
        self._metrics = metrics

    def seconds_until_rest(self, limit: float = 30) -> float:
        """How long it takes from now until the processes compute nothing any more, for two windows."""
        began = quiet_since = last = time.monotonic()
        before = self._computed()
        while quiet_since - began < limit:
            time.sleep(WINDOW_SECONDS)
            now, computed = time.monotonic(), self._computed()
            if computed - before >= IDLE_SECONDS:
                quiet_since = now
            elif last > quiet_since:
                return quiet_since - began
            last, before = now, computed
        raise AssertionError(f"the server still works after {limit:g} s")

    def number(self, name: str, **labels: str) -> float:
        """The sum of a metric's rows that have these labels; 0 if there is none."""
        with urllib.request.urlopen(f"http://{self._metrics}/metrics", timeout=10) as page:
            text = page.read().decode()
        rows = re.findall(rf"^{name}(\{{.*\}})? (\S+)$", text, re.MULTILINE)
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(float(value) for shown, value in rows if all(label in shown for label in wanted))

    def runs(self, model: str) -> float:
        """Inferences of a model; Triton counts them as they end."""
        return self.number("nv_inference_count", model=model)

    def cancelled(self, model: str) -> float:
        """Of those, the ones that were given up; the page shows it a second later."""
        return self.number("florence2_sam2_requests_total", model=model, code="CANCELLED")

    def nothing_in_flight(self, seconds: float = 5) -> bool:
        """Whether no model has a request, and the decoder no row, at last."""
        names = ("requests_in_flight", "decoder_rows", "decoder_waiting", "segment_waiting")
        return until(lambda: not any(self.number(f"florence2_sam2_{name}") for name in names), seconds)

    @contextlib.contextmanager
    def given_up(self, *models: str) -> Iterator[None]:
        """Within, a call is cancelled, which each of those models counts; afterwards nothing of it is in flight."""
        before = {model: self.cancelled(model) for model in models}
        yield
        assert until(lambda: all(self.cancelled(model) > count for model, count in before.items()), 5)
        assert self.nothing_in_flight()

    def _computed(self) -> float:
        total = 0
        for pid in self.pids:
            fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])  # utime and stime, of all threads
        return total / TICKS


@dataclass(frozen=True)
class Held:
    """What processes hold together. `regions`: names of their files in /dev/shm."""

    descriptors: int
    threads: int
    megabytes: float
    regions: set[str]

    @classmethod
    def by(cls, pids: Collection[int], prefix: str, remembered: float = 0.0) -> Held:
        """Of `pids`, and the regions whose names begin with `prefix`. `remembered`: megabytes kept by intention."""
        folders = [Path("/proc") / str(pid) for pid in pids]
        return cls(
            descriptors=sum(len(os.listdir(folder / "fd")) for folder in folders),
            threads=sum(len(os.listdir(folder / "task")) for folder in folders),
            megabytes=taken(list(pids), prefix).total - remembered,
            regions={path.name for path in Path("/dev/shm").glob(f"{prefix}*")},
        )
