"""Names of shared memory for one run. A run that was killed leaves its regions, and in Kubernetes /dev/shm outlives the
container: each start would find less of it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path
from types import TracebackType
from typing import Self

SHARED_MEMORY = Path("/dev/shm")
PREFIX = "florence2_sam2_run_"
_LOCK = "lock"


class SharedMemoryNames:
    """A prefix that only this run's regions have, for as long as the context lasts. What earlier runs have left is
    removed on entering, what this one leaves on leaving. Other servers that share the folder are left alone: whoever
    runs holds a lock.

    Attributes:
        prefix: what the names of the regions must begin with.
    """

    def __init__(self, folder: Path = SHARED_MEMORY) -> None:
        self._folder = folder
        self.prefix = f"{PREFIX}{secrets.token_hex(8)}_"

    def __enter__(self) -> Self:
        for lock in sorted(self._folder.glob(f"{PREFIX}*_{_LOCK}")):
            _remove_if_dead(lock)
        lock = self._folder / (self.prefix + _LOCK)
        # Locked before it has its name, so that nobody takes it for a dead run's.
        draft = self._folder / f".{self.prefix}{_LOCK}"
        self._held = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(self._held, fcntl.LOCK_EX)
        draft.rename(lock)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _remove(self._folder, self.prefix)
        os.close(self._held)


def _remove_if_dead(lock: Path) -> None:
    """Remove a run's regions unless its process holds the lock."""
    try:
        file = os.open(lock, os.O_RDWR)
    except OSError:  # gone meanwhile, or another user's
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    else:
        _remove(lock.parent, lock.name.removesuffix(_LOCK))
    finally:
        os.close(file)


def _remove(folder: Path, prefix: str) -> None:
    for region in folder.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)
