"""The output folder, on whatever file system fsspec reaches: files are there as a whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import posixpath
import shutil
import uuid
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from florence2_sam2.bulk.errors import WrongUsage

_UNFINISHED = ".tmp-"


def opened(url: str, option: str) -> tuple[Any, str]:
    """(file system, path) of an fsspec URL or a path of this machine.

    Raises:
        WrongUsage: the protocol is not known, or its driver not installed.
    """
    try:
        return cast(tuple[Any, str], fsspec.core.url_to_fs(url))
    except (ImportError, ValueError) as error:
        raise WrongUsage(f"{option}: {error}") from None


class Folder:
    """A folder of files. Names are plain, without `/`.

    On a local disk a file is written beside its place and linked there; an object store puts it there at once.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs, self._root = opened(url, "OUTPUT")
        self._local = isinstance(self._fs, LocalFileSystem)

    def make(self) -> None:
        """Make it, if it is not there.

        Raises:
            OSError: it cannot be made.
        """
        self._fs.makedirs(self._root, exist_ok=True)

    def names(self) -> set[str]:
        """Files that are there, whole."""
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(self._root, detail=False)
        except FileNotFoundError:
            return set()
        names = {posixpath.basename(str(path).rstrip("/")) for path in found}
        return {name for name in names if not name.startswith(_UNFINISHED)}

    def exists(self, name: str) -> bool:
        self._fs.invalidate_cache(self._root)
        return bool(self._fs.exists(self._path(name)))

    def read(self, name: str) -> bytes | None:
        """The file's content; None: it is not there."""
        self._fs.invalidate_cache(self._root)
        try:
            return cast(bytes, self._fs.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def open(self, name: str) -> BinaryIO:
        """For reading here and there in it.

        Raises:
            FileNotFoundError: it is not there.
        """
        return cast(BinaryIO, self._fs.open(self._path(name), "rb"))

    def create(self, name: str, content: bytes | Path) -> bool:
        """Put a file there, of bytes or of another file's content; whether it was not there before.

        A file that is there stays as it is. (On an object store two that create the same file in the same moment may
        both succeed; one file is there then, whole.)

        Raises:
            OSError: it cannot be written.
        """
        if self._local:
            return self._linked(name, content)
        if self.exists(name):
            return False
        self._put(name, content)
        return True

    def replace(self, name: str, content: bytes | Path) -> None:
        """Put a file there, in place of the one that may be there.

        Raises:
            OSError: it cannot be written.
        """
        if self._local:
            unfinished = self._beside(name, content)
            os.replace(unfinished, self._path(name))
        else:
            self._put(name, content)

    def remove(self, name: str) -> None:
        """Take a file away, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def sweep(self) -> None:
        """Take away what an earlier run's writers have left unfinished. Only while none of them is alive."""
        if self._local:
            for path in Path(self._root).glob(f"{_UNFINISHED}*"):
                path.unlink(missing_ok=True)

    def _path(self, name: str) -> str:
        return posixpath.join(self._root, name)

    def _put(self, name: str, content: bytes | Path) -> None:
        if isinstance(content, bytes):
            self._fs.pipe_file(self._path(name), content)
        else:
            self._fs.put_file(str(content), self._path(name))

    def _beside(self, name: str, content: bytes | Path) -> Path:
        """A file of that content under a passing name, on the disk when this returns."""
        unfinished = Path(self._root) / f"{_UNFINISHED}{name}-{uuid.uuid4().hex}"
        with unfinished.open("xb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                with content.open("rb") as source:
                    shutil.copyfileobj(source, file)
            file.flush()
            os.fsync(file.fileno())
        return unfinished

    def _linked(self, name: str, content: bytes | Path) -> bool:
        place = self._path(name)
        unfinished = self._beside(name, content)
        try:
            os.link(unfinished, place)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            if os.path.exists(place):
                return False
            os.replace(unfinished, place)
        finally:
            unfinished.unlink(missing_ok=True)
        _synced(self._root)
        return True


def _synced(folder: str) -> None:
    """The folder's list of names on the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
