"""What a piece of the bench hands back, and how it is kept between runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]

# unit → how a number of it is written
UNITS: dict[str, Callable[[float], str]] = {
    "×": lambda value: f"{value:.2f}×",
    "share": lambda value: f"{value:.3f}",
    "%": lambda value: f"{100 * value:.1f} %",
    "ms": lambda value: f"{value:.1f} ms",
    "s": lambda value: f"{value:.1f} s",
    "MB": lambda value: f"{value:.0f} MB",
    "GB": lambda value: f"{value:.2f} GB",
    "pixels": lambda value: f"{value:.0f} pixels",
    "calls": lambda value: f"{value:.0f} calls",
    "calls/s": lambda value: f"{value:.2f} calls/s",
    "MB/min": lambda value: f"{value:.2f} MB/min",
    "/min": lambda value: f"{value:.2f} /min",
    "": lambda value: f"{value:.0f}",
}


@dataclass(frozen=True)
class Row:
    """One line of the table of targets.

    `at_most`: the target is an upper limit. `low`, `high`: the spread, in the same unit. `target` None: nothing is
    asked of it, it is there to be read.
    """

    what: str
    value: float
    unit: str
    target: float | None = None
    at_most: bool = False
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one. What is no number meets nothing."""
        if self.target is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target

    def shown(self) -> str:
        """The value with its spread."""
        write = UNITS[self.unit]
        text = write(self.value)
        if self.low is not None and self.high is not None:
            text += f" ({write(self.low)} to {write(self.high)})"
        return text

    def wanted(self) -> str:
        if self.target is None:
            return ""
        return f"{'≤' if self.at_most else '≥'} {UNITS[self.unit](self.target)}"


@dataclass(frozen=True)
class Table:
    """A table of a piece's own. Cells are text."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass
class Result:
    """`raw`: every value that was measured, as JSON can hold it; plots are drawn from it."""

    rows: list[Row] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    raw: Json = field(default_factory=dict)


@dataclass
class Ran:
    """A piece that has run. With an `error` the result holds what was measured before it, mostly nothing."""

    piece: str
    settings: Json
    machine: Json
    date: str
    seconds: float
    result: Result = field(default_factory=Result)
    error: str = ""

    def write(self, folder: Path) -> Path:
        """Keep it as `folder/PIECE.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.piece}.json"
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> Ran:
        """What `write` kept.

        Raises:
            OSError, ValueError, TypeError, KeyError: there is none, or it is of another form.
        """
        body = json.loads(path.read_text(encoding="utf-8"))
        result = body.pop("result")
        return cls(
            **body,
            result=Result(
                [Row(**row) for row in result["rows"]],
                [Table(**table) for table in result["tables"]],
                result["raw"],
            ),
        )
