"""Reading Triton's log for the operator."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

# 2026-01-31T12:00:00Z 4711 E model_lifecycle.cc:642] "failed to load 'x' …\n\nAt:\n  …"
_LINE = re.compile(r"^\S+ (?:\d+ )?(?P<severity>[IWE]) (?:\d+ )?(?P<source>\S+:\d+)\] (?P<text>.*)$")
# Said at each start on a machine without a GPU, and without meaning there.
_NOISE = ("CudaDriverHelper has not been initialized", "unable to create stream for")
_FAILED = re.compile(r"failed to load '(?P<model>[^']+)' version \d+: (?P<reason>.*)", re.DOTALL)


class LogReader:
    """The lines that a growing file has got since the last call."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._path = path
        self._offset = offset
        self._rest = b""

    def lines(self) -> Iterator[str]:
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        *complete, self._rest = (self._rest + data).split(b"\n")
        for line in complete:
            yield line.decode("utf-8", "replace")


def error_of(line: str) -> str | None:
    """The message of a line of severity error, one line of text; None for every other line.

    Of a traceback only the exception is shown.
    """
    match = _LINE.match(line)
    if match is None or match["severity"] != "E":
        return None
    first, *others = _unquoted(match["text"]).strip().splitlines() or [""]
    if not first or first.startswith(_NOISE):
        return None
    return f"{first}: {others[-1]}" if others and others[0].startswith("Traceback") else first


def loading_failure(log: str) -> str | None:
    """The first model that could not be loaded, and why."""
    for line in log.splitlines():
        match = _LINE.match(line)
        failed = _FAILED.search(_unquoted(match["text"])) if match else None
        if failed:
            return f"model {failed['model']}: {_reason(failed['reason'])}"
    return None


def failure_reason(log: str) -> str | None:
    """Why Triton has ended: the first model that could not be loaded, else the last error in its log."""
    loading = loading_failure(log)
    if loading:
        return loading
    for line in reversed(log.splitlines()):
        message = error_of(line) or (line.strip() if line.startswith("error: ") else None)
        if message:
            return message
    return None


def _reason(text: str) -> str:
    """`Internal: FileNotFoundError: …\\n\\nAt:\\n  file(line): function…` → the exception alone."""
    head = text.split("\n\nAt:")[0]
    return " ".join(head.removeprefix("Internal: ").split()).rstrip(";")


def _unquoted(text: str) -> str:
    if text.startswith('"'):
        try:
            return str(json.loads(text))
        except ValueError:
            return text.strip('"')
    return text
