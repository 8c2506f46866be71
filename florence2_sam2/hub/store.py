"""The hub library's cache as a folder, so that files are shared with everything else that uses it.

    <HF_HUB_CACHE>/models--<organisation>--<name>/
        blobs/<digest>                      a file, named by its hash; <digest>.incomplete while it is being downloaded
        refs/<revision>                     the commit that a branch or tag was last seen at
        snapshots/<commit>/<file>           link to the blob
    <HF_HUB_CACHE>/.locks/models--…/<digest>.lock

The layout is documented: huggingface.co/docs/huggingface_hub/guides/manage-cache.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from florence2_sam2.hub import listing
from florence2_sam2.hub.client import home
from florence2_sam2.hub.errors import HubError
from florence2_sam2.hub.listing import HubFile
from florence2_sam2.hub.names import HubName


class Store:
    """One repository's part of the hub library's cache."""

    def __init__(self, root: Path, repository: str) -> None:
        folder = "--".join(["models", *repository.split("/")])
        self.repository = repository
        self.folder = root / folder
        self._locks = root / ".locks" / folder

    @classmethod
    def of(cls, name: HubName, environ: Mapping[str, str] = os.environ) -> Store:
        root = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE") or home(environ) / "hub"
        return cls(Path(root).expanduser(), name.repository)

    def snapshot(self, commit: str) -> Path:
        return self.folder / "snapshots" / commit

    def blob(self, file: HubFile) -> Path:
        return self.folder / "blobs" / file.digest

    def commit_of(self, revision: str) -> str | None:
        """The commit that `revision` was last seen at."""
        try:
            return (self.folder / "refs" / revision).read_text("utf-8").strip() or None
        except OSError:
            return None

    def remember(self, revision: str, commit: str) -> None:
        """Note that `revision` is at `commit`."""
        path = self.folder / "refs" / revision
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}.part")
        draft.write_text(commit, "utf-8")
        draft.replace(path)

    def files_of(self, commit: str) -> list[HubFile]:
        """The files of a snapshot that is whole, without asking the hub; their blobs' names are their hashes.

        Raises:
            HubError: it is not there, or lacks files.
        """
        folder = self.snapshot(commit)
        names = {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()
        if not names:
            raise HubError(f"{self.repository} at {commit[:12]} has not been downloaded")
        needed = listing.configs(self.repository, names)
        needed += listing.weights(self.repository, folder, names)
        blobs = {name: (folder / name).resolve() for name in needed}
        return [HubFile(name, blob.stat().st_size, blob.name) for name, blob in blobs.items()]

    def link(self, file: HubFile, commit: str) -> None:
        """Make the file's blob part of the snapshot."""
        pointer = self.snapshot(commit) / file.name
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.unlink(missing_ok=True)
        try:
            pointer.symlink_to(os.path.relpath(self.blob(file), pointer.parent))
        except OSError:  # a file system without links: the hub library puts the file itself there
            self.blob(file).replace(pointer)

    @contextlib.contextmanager
    def locked(self, file: HubFile) -> Iterator[None]:
        """Within, no other process downloads the file; the hub library keeps to the same locks."""
        self._locks.mkdir(parents=True, exist_ok=True)
        with (self._locks / f"{file.digest}.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
