"""The pictures of a shard, one after the other: their ids, and how to come by each."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from florence2_sam2.bulk import listing
from florence2_sam2.bulk.calls import PictureFailed
from florence2_sam2.bulk.errors import BulkError
from florence2_sam2.bulk.folder import opened
from florence2_sam2.bulk.source import Entry, Source, expanded, is_url
from florence2_sam2.cli.sources import ENDINGS

_ROWS_AT_ONCE = 16
# What says that there is no such picture; other errors of a file system may pass.
_MISSING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


@dataclass(frozen=True)
class Item:
    """A picture. `load` may block; it gives the picture's bytes, or its URL.

    `load` raises PictureFailed where there is no picture to be had, and what the file system raises where that may
    pass.
    """

    id: str
    load: Callable[[], bytes | str]


class Reader:
    """Reads shards of a source. Belongs to one thread at a time, but for the items' `load`.

    Raises:
        WrongUsage: its file system is not known here.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._fs, _ = opened(next(expanded(source.url)), "INPUT")
        self._picture_fs = self._fs if source.root is None else opened(source.root, "--root")[0]

    def items(self, entries: Sequence[Entry]) -> Iterator[Item]:
        """The pictures of a shard, in order. Bytes that are read ahead are held until the next item is asked for.

        Raises:
            BulkError: a Parquet or tar file is not what it was, or broken.
            OSError: of the file system; it may pass.
        """
        for entry in entries:
            if entry.error is not None:
                yield _failed(entry.id, "INVALID_ARGUMENT", entry.error)
            elif self._source.kind == "webdataset":
                yield from self._of_tar(entry)
            elif entry.group >= 0:
                yield from self._of_rows(entry)
            elif is_url(entry.where):
                yield _holding(entry.id, entry.where)
            else:
                yield Item(entry.id, _reading(self._picture_fs, entry.where, self._source.max_bytes))

    def _of_rows(self, entry: Entry) -> Iterator[Item]:
        try:
            with self._fs.open(entry.where, "rb") as opened_file:
                yield from _rows(pq.ParquetFile(opened_file), entry, self._source)
        except (pa.ArrowException, IndexError, KeyError) as error:
            raise BulkError(f"{entry.where} is not the Parquet file that it was: {error}") from None

    def _of_tar(self, entry: Entry) -> Iterator[Item]:
        seen: dict[str, int] = {}
        try:
            with (
                self._fs.open(entry.where, "rb") as opened_file,
                tarfile.open(fileobj=opened_file, mode="r|*", tarinfo=_Member) as tar,
            ):
                for member in tar:
                    name = member.name.removeprefix("./")
                    if not member.isfile() or not _is_picture(name):
                        continue
                    # A name that stands there again is another picture.
                    seen[name] = seen.get(name, 0) + 1
                    key = f"{entry.id}/{name}" + (f"#{seen[name]}" if seen[name] > 1 else "")
                    if member.size > self._source.max_bytes:
                        yield _failed(key, "INVALID_ARGUMENT", _too_large(self._source.max_bytes))
                        continue
                    content = tar.extractfile(member)
                    assert content is not None
                    yield _holding(key, content.read())
        # Of a file that is cut within gzip's own header it says TypeError.
        except (tarfile.TarError, zlib.error, EOFError, TypeError, ValueError) as error:
            raise BulkError(f"{entry.where} is no whole tar file: {error}") from None


class _Member(tarfile.TarInfo):
    """Python takes a tar file that is cut off, or garbled, for one that ends there: pictures would be lost."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the mark of the end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error}, where a member or the mark of the end is due") from None


def _rows(file: pq.ParquetFile, entry: Entry, source: Source) -> Iterator[Item]:
    first = sum(file.metadata.row_group(group).num_rows for group in range(entry.group))
    column, _ = listing.leaf(file.schema_arrow, cast(str, source.picture_column))
    wanted = [name for name in (column, source.id_column) if name]
    row = first
    batches = file.iter_batches(_ROWS_AT_ONCE, row_groups=[entry.group], columns=wanted)
    for batch in batches:
        if row + batch.num_rows > entry.start and row < entry.stop:
            pictures = batch.column(cast(str, source.picture_column))
            keys = batch.column(source.id_column) if source.id_column else None
            for index in range(batch.num_rows):
                if entry.start <= row + index < entry.stop:
                    key = f"{entry.id}#{row + index}" if keys is None else str(keys[index].as_py())
                    yield _of_value(key, pictures[index].as_py(), source.max_bytes)
        row += batch.num_rows
        if row >= entry.stop:
            return
    raise BulkError(f"{entry.where} has fewer rows than it had")


def _of_value(key: str, value: Any, limit: int) -> Item:
    content = value.get("bytes") if isinstance(value, dict) else value
    if not content:
        return _failed(key, "INVALID_ARGUMENT", "there is no picture in this row")
    if len(content) > limit:
        return _failed(key, "INVALID_ARGUMENT", _too_large(limit))
    return _holding(key, content)


def _is_picture(name: str) -> bool:
    return name.lower().endswith(ENDINGS) and not any(part.startswith(".") for part in name.split("/"))


def _holding(key: str, picture: bytes | str) -> Item:
    return Item(key, lambda: picture)


def _failed(key: str, code: str, message: str) -> Item:
    def load() -> bytes:
        raise PictureFailed(code, message)

    return Item(key, load)


def _reading(fs: Any, path: str, limit: int) -> Callable[[], bytes]:
    def load() -> bytes:
        try:
            if isinstance(fs, LocalFileSystem):
                with open(path, "rb") as file:
                    content = file.read(limit + 1)
            else:
                size = fs.size(path)
                if size is not None and size > limit:
                    raise PictureFailed("INVALID_ARGUMENT", _too_large(limit))
                content = cast(bytes, fs.cat_file(path))
        except _MISSING as error:
            reason = error.strerror or "there is no such file"
            raise PictureFailed("NOT_FOUND", f"the file cannot be read: {reason}") from None
        if len(content) > limit:
            raise PictureFailed("INVALID_ARGUMENT", _too_large(limit))
        if not content:
            raise PictureFailed("INVALID_ARGUMENT", "the file is empty")
        return content

    return load


def _too_large(limit: int) -> str:
    return f"the picture has more than {limit} bytes; --max-image-bytes allows more"
