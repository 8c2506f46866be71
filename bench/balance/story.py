"""What happens to several servers under load, one thing after the other, and what the callers notice of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench.balance.load import Figures, Load
from bench.balance.servers import Fleet, answered_since
from bench.speed.results import Table


@dataclass(frozen=True)
class Chapter:
    """A stretch of time. `answered`: calls that each server has answered in it."""

    name: str
    begin: float
    end: float
    answered: Mapping[str, float]

    @property
    def seconds(self) -> float:
        return self.end - self.begin

    def share_of_fair(self, server: str, servers: int) -> float:
        """What one of so many servers has answered, against an equal part; NaN where nothing was answered."""
        total = sum(self.answered.values())
        return self.answered.get(server, 0.0) * servers / total if total else float("nan")


class Story:
    def __init__(self, fleet: Fleet, load: Load, say: Callable[[str], None]) -> None:
        self.chapters: list[Chapter] = []
        self._fleet, self._load, self._say = fleet, load, say

    @contextmanager
    def chapter(self, name: str, counted: bool = True) -> Iterator[None]:
        """What is done within. Not `counted` where servers are restarted, which forget what they have answered."""
        self._say(name)
        before, begin = self._fleet.counts(), time.monotonic()
        yield
        now, end = self._fleet.counts(), time.monotonic()
        answered = answered_since(before, now) if counted else {}
        self.chapters.append(Chapter(name, begin, end, answered))

    def calm(self, name: str, seconds: float) -> Chapter:
        """Nothing but calls, for so long."""
        with self.chapter(name):
            time.sleep(seconds)
        return self.chapters[-1]

    def figures(self, chapter: Chapter) -> Figures:
        return Figures.of(self._load.calls, chapter.begin, chapter.end)

    def lost(self) -> list[str]:
        """What became of the calls that were not answered."""
        return [call.fault for call in self._load.calls if call.fault]

    def table(self, title: str, note: str) -> Table:
        names = list(dict.fromkeys(name for chapter in self.chapters for name in chapter.answered))
        rows = []
        for chapter in self.chapters:
            found, total = self.figures(chapter), sum(chapter.answered.values())
            times = [f"{1e3 * value:.0f}" for value in (found.p50, found.p95, found.slowest)]
            shares = [
                f"{100 * chapter.answered.get(name, 0) / total:.0f} %" if total else "" for name in names
            ]
            told = [chapter.name, f"{chapter.seconds:.0f}", str(found.calls), str(len(found.faults))]
            rows.append([*told, *times, *shares])
        head = ["", "seconds", "calls", "lost", "p50, ms", "p95, ms", "slowest, ms", *names]
        return Table(title, head, rows, note)

    def raw(self) -> dict[str, Any]:
        """Everything, for JSON. Seconds since the first chapter."""
        zero = self.chapters[0].begin if self.chapters else 0.0
        return {
            "chapters": [
                {
                    "name": one.name,
                    "begin": one.begin - zero,
                    "end": one.end - zero,
                    "answered": dict(one.answered),
                    "calls": self.figures(one).calls,
                    "faults": self.figures(one).faults,
                }
                for one in self.chapters
            ],
            "calls": [
                [round(call.sent - zero, 3), round(call.ended - zero, 3), call.fault, call.checkpoint]
                for call in self._load.calls
            ],
        }
