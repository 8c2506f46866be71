"""The server's processes, as the kernel shows them in /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable
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


def models(pid: int) -> dict[int, str]:
    """The python backend's processes below Triton's, with the names of their models: their first argument is the path
    `…/NAME/1/model.py`. One that has ended has no arguments any more.
    """
    found: dict[int, str] = {}
    for child in children(pid):
        try:
            words = (PROC / str(child) / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        path = Path(os.fsdecode(words[1])) if len(words) > 1 else Path()
        if path.name == "model.py" and len(path.parts) > 3:
            found[child] = path.parts[-3]
    return found


def dead(pids: Iterable[int]) -> list[int]:
    """Those that have ended, whether or not somebody has waited for them. (To look for them among the children of
    Triton takes long: it has hundreds of threads, and each may have some.)
    """
    return [pid for pid in pids if _state(pid) in ("Z", "X")]


def _state(pid: int) -> str:
    try:
        stat = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "X"
    return stat.rpartition(")")[2].split()[0]
