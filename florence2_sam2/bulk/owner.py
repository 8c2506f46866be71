"""One run at a time writes into an output folder: its owner, who says again and again that it is alive."""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from florence2_sam2.bulk.errors import BulkError
from florence2_sam2.bulk.folder import Folder

OWNER = "_owner.json"
BEAT_SECONDS = 10.0
# An owner on another machine that is not heard of for so long is dead. Its clock may differ: what counts is that the
# file stays the same while it is watched.
DEAD_SECONDS = 45.0


class Owner:
    """A context manager: the folder is this run's until it ends.

    Args:
        lost: is called, from another thread, when the folder has been taken over by another run, which takes this one
            for dead (it may have been stopped for minutes).
        told: is told what is waited for.

    Raises:
        BulkError: another run is alive.
        OSError: the file system does not answer.
    """

    def __init__(
        self,
        folder: Folder,
        lost: Callable[[], None],
        told: Callable[[str], None] = lambda _: None,
        beat: float = BEAT_SECONDS,
        dead: float = DEAD_SECONDS,
    ) -> None:
        self._folder, self._lost = folder, lost
        self._beat, self._dead = beat, dead
        self._body: dict[str, Any] = {
            "run": uuid.uuid4().hex,
            "host": platform.node(),
            "pid": os.getpid(),
            "began": _began(os.getpid()),
            "beat": 0,
        }
        self._ended = threading.Event()
        self._take(told)
        self._thread = threading.Thread(target=self._keep, name="bulk-owner", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self._is_ours():
            self._folder.remove(OWNER)

    def _take(self, told: Callable[[str], None]) -> None:
        while not self._folder.create(OWNER, self._text()):
            there = self._folder.read(OWNER)
            if there is None:
                continue
            self._require_dead(there, told)
            self._folder.replace(OWNER, self._text())
            break
        if not self._is_ours():  # two have come at once
            raise BulkError(f"{self._folder.url}: another run has just begun here")

    def _require_dead(self, there: bytes, told: Callable[[str], None]) -> None:
        try:
            other = json.loads(there)
            host, pid, began = str(other["host"]), int(other["pid"]), other["began"]
        except (ValueError, TypeError, KeyError):
            host, pid, began = "an unknown machine", 0, None
        who = f"{self._folder.url}: another run is writing to it (process {pid} on {host})"
        if host == platform.node():
            if _began(pid) is not None and _began(pid) == began:
                raise BulkError(who)
            return
        told(f"a run on {host} was writing here; waiting {self._dead:.0f} s for a sign of life")
        end = time.monotonic() + self._dead
        while time.monotonic() < end:
            time.sleep(min(self._beat / 2, max(end - time.monotonic(), 0)))
            if self._folder.read(OWNER) != there:
                raise BulkError(who)

    def _keep(self) -> None:
        while not self._ended.wait(self._beat):
            try:
                if not self._is_ours():
                    self._lost()
                    return
                self._body["beat"] += 1
                self._folder.replace(OWNER, self._text())
            except Exception:  # of whatever driver; the next beat may pass, and workers say what is wrong
                continue

    def _is_ours(self) -> bool:
        try:
            return bool(json.loads(self._folder.read(OWNER) or b"{}").get("run") == self._body["run"])
        except ValueError:
            return False

    def _text(self) -> bytes:
        return json.dumps(self._body).encode()


def _began(pid: int) -> str | None:
    """When a process of this machine began, in the system's own unit; None: there is no such process.

    A process id alone may be another process's by now.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return None if fields[0] in ("Z", "X") else fields[19]
    except OSError:
        pass
    if os.path.exists("/proc/self/stat"):
        return None
    try:  # not on Linux
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        return "alive"
    return "alive"
