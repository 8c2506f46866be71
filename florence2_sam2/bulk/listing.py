"""The entries of a source, shard by shard: in an order that stays, each picture in one shard."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from florence2_sam2.bulk.errors import WrongUsage
from florence2_sam2.bulk.folder import opened
from florence2_sam2.bulk.source import Entry, Found, Source, is_url

# The first of these that the files have, unless a column is named.
_BYTES = ("image", "picture", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes")
PICTURE_COLUMNS = (*_BYTES, "url", "image_url", "path", "image_path", "file_name")
ID_COLUMNS = ("id", "image_id", "key", "__key__", "uid")


def columns(source: Source, found: Found) -> tuple[str, str | None]:
    """The columns of Parquet files that have the picture and its id, None where there is none: the source's, or of
    usual names.

    Raises:
        WrongUsage: a column is not there, or cannot be what it should.
    """
    schema = _schema(found, found.paths[0])
    names = schema.names
    picture = source.picture_column or next((name for name in PICTURE_COLUMNS if name in names), None)
    if picture is None or picture not in names:
        what = "none that is called like a picture" if picture is None else f"no column {picture}"
        raise WrongUsage(
            f"--picture-column: {source.url} has {what}; its columns are {', '.join(names)[:500]}"
        )
    key = source.id_column or next((name for name in ID_COLUMNS if name in names and name != picture), None)
    if key is not None and key not in names:
        raise WrongUsage(f"--id-column: {source.url} has no column {key}")
    leaf(schema, picture)
    return picture, key


def leaf(schema: pa.Schema, column: str) -> tuple[str, bool]:
    """What to read of a picture's column, and whether that are the picture's bytes; else it is its path or URL.

    Raises:
        WrongUsage: it is of neither type.
    """
    kind = schema.field(column).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:  # as datasets of the hub have it
        kind, column = kind.field("bytes").type, f"{column}.bytes"
    if _is(kind, "binary", "large_binary", "binary_view"):
        return column, True
    if _is(kind, "string", "large_string", "string_view"):
        return column, False
    raise WrongUsage(f"--picture-column: {column} is {kind}; bytes, or text with a path or URL, are wanted")


def _is(kind: pa.DataType, *names: str) -> bool:
    return str(kind) in names


def _schema(found: Found, path: str) -> pa.Schema:
    with found.fs.open(path, "rb") as file:
        return pq.read_schema(file)


def shards(source: Source, found: Found, size: int) -> Iterator[list[Entry]]:
    """The entries of each shard; `size` pictures, but for tar files, which are a shard each.

    Raises:
        WrongUsage: Parquet files whose columns differ, or ids that stand there twice.
        OSError: a file cannot be read.
    """
    if source.kind == "webdataset":
        return ([Entry(found.name(path), path)] for path in found.paths)
    if source.kind == "pictures":
        return _in_lots((Entry(found.name(path), path) for path in found.paths), size)
    _require_unique(source, found)
    picture = source.picture_column
    assert picture is not None
    if leaf(_schema(found, found.paths[0]), picture)[1]:
        return _row_lots(_row_groups(source, found), size)
    return _in_lots(_references(source, found), size)


def count(entries: Iterable[Entry]) -> int:
    """Pictures of entries that are no tar files."""
    return sum(1 if entry.group < 0 else entry.stop - entry.start for entry in entries)


def _in_lots(entries: Iterator[Entry], size: int) -> Iterator[list[Entry]]:
    while lot := list(islice(entries, size)):
        yield lot


def _row_lots(entries: Iterator[Entry], size: int) -> Iterator[list[Entry]]:
    """Shards of whole row groups where they fit, of parts of one where it is larger: each shard that has a part of a
    row group reads the whole of it."""
    lot: list[Entry] = []
    taken = 0
    for entry in entries:
        rows = entry.stop - entry.start
        if lot and taken + rows > size:
            yield lot
            lot, taken = [], 0
        if rows <= size:
            lot.append(entry)
            taken += rows
            continue
        parts = -(-rows // size)
        bounds = [entry.start + rows * part // parts for part in range(parts + 1)]
        for start, stop in pairwise(bounds):
            yield [Entry(entry.id, entry.where, entry.group, start, stop)]
    if lot:
        yield lot


def _row_groups(source: Source, found: Found) -> Iterator[Entry]:
    """Each row group with rows; `start` and `stop` are rows of the file."""
    for path, file in _files(source, found):
        first = 0
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if rows:
                yield Entry(found.name(path), path, group, first, first + rows)
            first += rows


def _references(source: Source, found: Found) -> Iterator[Entry]:
    """Each row's path or URL. The plan has them, so that a shard needs not read a large row group for a few rows."""
    inside = Inside(source, found)
    for path, file in _files(source, found):
        row = 0
        wanted = [name for name in (source.picture_column, source.id_column) if name]
        for batch in file.iter_batches(columns=wanted):
            where = batch.column(source.picture_column).to_pylist()
            ids = _ids(batch, source, found.name(path), row)
            row += len(where)
            for one, key in zip(where, ids, strict=True):
                yield inside.entry(key, one)


def _ids(batch: pa.RecordBatch, source: Source, name: str, first: int) -> list[str]:
    if source.id_column is None:
        return [f"{name}#{first + index}" for index in range(batch.num_rows)]
    return [str(value) for value in batch.column(source.id_column).to_pylist()]


class Inside:
    """Paths in Parquet: below the root only, so that somebody else's file leads to nothing but its own pictures."""

    def __init__(self, source: Source, found: Found) -> None:
        self._fs: Any = found.fs
        self._root = found.base
        if source.root is not None:
            self._fs, self._root = opened(source.root, "--root")

    def entry(self, key: str, where: str | None) -> Entry:
        if not where:
            return Entry(key, "", error="there is no picture in this row")
        if is_url(where):
            return Entry(key, where)
        plain = where
        if "://" in where:
            protocol = where.partition("://")[0]
            known = (self._fs.protocol,) if isinstance(self._fs.protocol, str) else self._fs.protocol
            if protocol not in known:
                return Entry(
                    key, "", error=f"{protocol}:// is not where the pictures are: name it with --root"
                )
            plain = str(self._fs._strip_protocol(where))
        path = posixpath.normpath(posixpath.join(self._root, plain))
        if not path.startswith(self._root.rstrip("/") + "/"):
            return Entry(key, "", error="the path leads out of the folder of the pictures; see --root")
        return Entry(key, path)


def _files(source: Source, found: Found) -> Iterator[tuple[str, pq.ParquetFile]]:
    """All files; their columns must be those of the first."""
    wanted = [name for name in (source.picture_column, source.id_column) if name]
    first: list[pa.DataType] | None = None
    for path in found.paths:
        with found.fs.open(path, "rb") as opened_file:
            try:
                file = pq.ParquetFile(opened_file)
            except pa.ArrowInvalid as error:
                raise WrongUsage(f"INPUT: {found.name(path)} is no Parquet file ({error})") from None
            schema = file.schema_arrow
            missing = next((name for name in wanted if name not in schema.names), None)
            if missing is not None:
                raise WrongUsage(f"INPUT: {found.name(path)} has no column {missing}")
            types = [schema.field(name).type for name in wanted]
            if types != (first := first or types):
                raise WrongUsage(
                    f"INPUT: the columns of {found.name(path)} are of other types than the first file's"
                )
            yield path, file


def _require_unique(source: Source, found: Found) -> None:
    if source.id_column is None:
        return
    chunks = []
    for path, file in _files(source, found):
        ids = file.read(columns=[source.id_column]).column(0)
        if ids.null_count:
            raise WrongUsage(f"--id-column: {source.id_column} is empty in rows of {found.name(path)}")
        try:
            chunks += ids.cast(pa.string()).chunks
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise WrongUsage(
                f"--id-column: {source.id_column} is {ids.type}; text or numbers are wanted"
            ) from None
    counted = pc.value_counts(pa.chunked_array(chunks, pa.string()))
    twice = counted.filter(pc.greater(counted.field("counts"), 1))
    if len(twice):
        value, rows = twice[0]["values"].as_py(), twice[0]["counts"].as_py()
        raise WrongUsage(
            f"--id-column: {source.id_column} {value!r} stands in {rows} rows; each picture needs an id of its own"
        )
