"""The server's processes, as the kernel shows them in /proc."""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")


def children(pid: int) -> list[int]:
    """Process ids of the children of `pid`; none when it has ended."""
    found: list[int] = []
    try:
        for task in (PROC / str(pid) / "task").iterdir():
            found += map(int, (task / "children").read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        return found
    return found


def dead_children(pid: int) -> list[int]:
    """Children of `pid` that have ended and were not waited for (state Z or X)."""
    return [child for child in children(pid) if _state(child) in ("Z", "X")]


def _state(pid: int) -> str:
    try:
        stat = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "X"
    return stat.rpartition(")")[2].split()[0]
