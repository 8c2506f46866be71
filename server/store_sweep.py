"""Masks that have been kept long enough, removed from a folder of this machine."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from pathlib import Path

# As `store` names masks, and what a writer that was killed has left of one. Nothing else is ever touched.
_OURS = re.compile(r"[0-9a-f]{40}\.png(?:\.[0-9a-f]{16})?")
# A mask is there for at least as long as its answer says, whatever the clocks of a network's disk.
GRACE_SECONDS = 60.0
# The pause between two rounds: a share of the time that masks are kept, within seconds.
_SHARE, _SHORTEST, _LONGEST = 0.1, 1.0, 60.0
MOST_AT_ONCE = 1000  # removed in a round: a full folder must not take the disk from those who write


class Sweep:
    """Removes masks from `folder` that were last written more than `keep` seconds ago, and a minute.

    Args:
        replacing: held by whoever puts a mask in the place of an older one of the same name.
    """

    def __init__(self, folder: Path, keep: float, replacing: threading.Lock) -> None:
        self._folder, self._keep, self._replacing = folder, keep, replacing

    def start(self) -> None:
        """Do so from now on, in a thread that ends with the process."""
        threading.Thread(target=self._run, name="store-sweep", daemon=True).start()

    def once(self) -> int:
        """One round: how many were removed. A folder that is away, or files that may not be removed, are no error."""
        removed, oldest = 0, time.time() - self._keep - GRACE_SECONDS
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                if removed == MOST_AT_ONCE:
                    break
                if _OURS.fullmatch(entry.name) and self._remove(entry, oldest):
                    removed += 1
        return removed

    def _remove(self, entry: os.DirEntry[str], oldest: float) -> bool:
        with contextlib.suppress(OSError):
            if (
                not entry.is_file(follow_symlinks=False)
                or entry.stat(follow_symlinks=False).st_mtime > oldest
            ):
                return False
            with self._replacing:
                if os.stat(entry.path, follow_symlinks=False).st_mtime <= oldest:
                    os.unlink(entry.path)
                    return True
        return False

    def _run(self) -> None:
        pause = min(max(self._keep * _SHARE, _SHORTEST), _LONGEST)
        while True:
            # Many at once are gone soon, but not without a moment for others.
            full = self.once() == MOST_AT_ONCE
            time.sleep(_SHORTEST if full else pause)
