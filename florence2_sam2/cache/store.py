"""The cache's folder: entries, locks, and where a branch or tag of the hub was last seen."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from florence2_sam2.hub.names import HubName

VARIABLE = "FLORENCE2_SAM2_CACHE"
REPOSITORY = "repository"
RECIPE = "recipe.json"


class CacheError(Exception):
    """The cache cannot be used. One line, with what to do."""


def default_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """$FLORENCE2_SAM2_CACHE, else the user's cache folder."""
    base = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(environ.get(VARIABLE) or Path(base) / "florence2-sam2").expanduser()


@dataclass(frozen=True)
class Entry:
    """One folder of the cache. `repository` is there only when the export is whole."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def repository(self) -> Path:
        return self.folder / REPOSITORY

    @property
    def is_whole(self) -> bool:
        return self.repository.is_dir()

    def recipe(self) -> dict[str, Any]:
        """What it was made of; empty when that cannot be read."""
        try:
            body = json.loads((self.folder / RECIPE).read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return body if isinstance(body, dict) else {}

    def size(self) -> int:
        """Bytes of its files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def clear(self) -> None:
        """Remove what an export that was killed, or damaged since, has left."""
        for path in (self.repository, *self.folder.glob(f".{REPOSITORY}-*")):
            shutil.rmtree(path, ignore_errors=True)

    def discard(self) -> None:
        """Remove the whole folder, after an export that failed."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Lock:
    """Who may touch an entry: servers share it, an export or a removal has it alone. Gone with the process."""

    def __init__(self, file: BinaryIO | None) -> None:
        self._file = file

    def share(self, on_wait: Callable[[], None]) -> None:
        """Take it with others; `on_wait` is called first when someone has it alone."""
        if not self._try(fcntl.LOCK_SH):
            on_wait()
            assert self._file is not None
            fcntl.flock(self._file, fcntl.LOCK_SH)

    def try_to_own(self) -> bool:
        """Whether nobody else had it."""
        return self._try(fcntl.LOCK_EX)

    def release(self) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _try(self, mode: int) -> bool:
        if self._file is None:
            return True
        try:
            fcntl.flock(self._file, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class Cache:
    """Exports of this machine, one folder each. Nothing is written before it is needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    @property
    def contents(self) -> Path:
        """Where hashes of local checkpoints are noted."""
        return self.folder / "contents"

    def entry(self, name: str) -> Entry:
        return Entry(self.folder / name)

    def entries(self) -> list[Entry]:
        """Every entry, by name; some may be unfinished."""
        folders = self.folder.iterdir() if self.folder.is_dir() else []
        return [Entry(path) for path in sorted(folders) if (path / RECIPE).is_file()]

    def lock(self, entry: Entry) -> Lock:
        """The entry's lock, not taken yet. In a cache that cannot be written there is nothing to lock against."""
        path = self.folder / "locks" / f"{entry.name}.lock"
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        try:
            return Lock(path.open("rb"))
        except OSError:
            return Lock(None)

    def prepare(self, entry: Entry, recipe: Mapping[str, Any]) -> None:
        """Make the folder for an export.

        Raises:
            CacheError: it cannot be written.
        """
        try:
            entry.folder.mkdir(parents=True, exist_ok=True)
            entry.clear()
            (entry.folder / RECIPE).write_text(json.dumps(recipe, indent=1) + "\n", "utf-8")
        except OSError as error:
            raise CacheError(
                f"the cache {self.folder} cannot be written ({error.strerror}): make it writable, or choose"
                f" another folder with --cache or {VARIABLE}"
            ) from None

    def remove(self, entry: Entry) -> None:
        """Remove an entry.

        Raises:
            CacheError: a server runs on it, or it is being exported, or may not be removed.
        """
        lock = self.lock(entry)
        try:
            if not lock.try_to_own():
                raise CacheError(f"{entry.name} is in use: stop the server first")
            shutil.rmtree(entry.folder)
        except OSError as error:
            raise CacheError(f"{entry.name} cannot be removed: {error}") from None
        finally:
            lock.close()

    def commits(self, name: HubName) -> list[str]:
        """The commits that `name` was served at, the newest first."""
        try:
            body = json.loads(self._note(name).read_text("utf-8"))
        except (OSError, ValueError):
            return []
        return [commit for commit in body if isinstance(commit, str)] if isinstance(body, list) else []

    def remember(self, name: HubName, commit: str) -> None:
        """Note that the hub had `name` at `commit`, which is in the cache now."""
        before = self.commits(name)
        if before[:1] == [commit]:
            return
        path = self._note(name)
        with contextlib.suppress(OSError):  # without the note, the next start needs the hub
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f"{path.name}.{os.getpid()}.part")
            draft.write_text(json.dumps([commit, *(other for other in before if other != commit)]), "utf-8")
            draft.replace(path)

    def _note(self, name: HubName) -> Path:
        return self.folder / "revisions" / f"{quote(f'{name.repository}@{name.revision}', safe='@')}.json"
