"""Which pictures there are: those of a folder or pattern, of Parquet files, or of WebDataset's tar files."""

from __future__ import annotations

import glob
import posixpath
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from florence2_sam2.bulk.errors import WrongUsage
from florence2_sam2.bulk.folder import opened
from florence2_sam2.cli.sources import ENDINGS, REMOTE

Kind = Literal["pictures", "parquet", "webdataset"]

_KINDS: dict[Kind, tuple[str, ...]] = {
    "pictures": ENDINGS,
    "parquet": (".parquet", ".pq"),
    "webdataset": (".tar", ".tar.gz", ".tgz"),
}
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
MOST_BRACES = 1_000_000
_AT_ONCE = 16  # questions to a file system


@dataclass(frozen=True)
class Source:
    """What is read. The same description gives the same pictures under the same ids, while the files stay.

    Args:
        url: a folder, file or pattern, on any file system that fsspec knows. `{0000..0099}` counts.
        kind: what its files are.
        picture_column, id_column: of Parquet; no id column: a picture is known by its file and row.
        root: of Parquet with a column of paths: the folder that these are in; else that of the Parquet files.
        max_bytes: larger pictures are not read.
    """

    url: str
    kind: Kind
    picture_column: str | None = None
    id_column: str | None = None
    root: str | None = None
    max_bytes: int = 32 * 2**20


@dataclass(frozen=True)
class Entry:
    """A part of a shard: one picture, the rows `start` to `stop` of a Parquet file, or a whole tar file."""

    id: str
    """The picture's; of rows without an id column, and of a tar file, what their ids begin with."""
    where: str
    """A path in the file system of the source (of `root`, for a path in Parquet), or a picture's URL."""
    group: int = -1
    """The row group of the rows; -1: these are no rows."""
    start: int = 0
    stop: int = 0
    error: str | None = None
    """Why there is no picture to be had, where that is known already."""


@dataclass(frozen=True)
class Found:
    """The files of a source: paths in its file system, in order, and the folder that their names count from."""

    fs: Any
    base: str
    paths: list[str]

    def name(self, path: str) -> str:
        """The path as seen from the folder."""
        return posixpath.relpath(path, self.base) if self.base else path


def is_url(where: str) -> bool:
    """Whether it is a picture's URL, not a path."""
    return where.lower().startswith(REMOTE)


def find(url: str, kind: Kind | None = None) -> tuple[Kind, Found]:
    """The files that `url` stands for, hidden ones left out, and what they are.

    Raises:
        WrongUsage: there are none, or of several kinds and none is chosen.
        OSError: the file system does not answer.
    """
    found = _everything(url)
    by_kind: dict[Kind, list[str]] = {}
    for path in found.paths:
        name = found.name(path)
        its = next((one for one, endings in _KINDS.items() if name.lower().endswith(endings)), None)
        if its is not None and not _is_hidden(name, its):
            by_kind.setdefault(its, []).append(path)
    if kind is None and len(by_kind) > 1:
        raise WrongUsage(f"INPUT: {url} has {' and '.join(by_kind)}; choose with --input or a pattern")
    wanted: Kind = next(iter(by_kind), "pictures") if kind is None else kind
    if wanted not in by_kind:
        endings = ", ".join(_KINDS[wanted])
        raise WrongUsage(f"INPUT: there are no {wanted} files ({endings}) at {url}")
    return wanted, Found(found.fs, found.base, by_kind[wanted])


def _is_hidden(name: str, kind: Kind) -> bool:
    # Cameras give pictures names with a _; what writes Parquet means by it what is no part of the data.
    marks = (".", "_") if kind == "parquet" else (".",)
    return any(part.startswith(marks) for part in name.split("/") if part != "..")


def _everything(url: str) -> Found:
    """All files that `url` stands for, sorted."""
    fs, first = opened(next(expanded(url)), "INPUT")
    if _BRACES.search(url):
        paths = [opened(one, "INPUT")[1] for one in expanded(url)]
        base = posixpath.dirname(_BRACES.split(opened(url, "INPUT")[1])[0])
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            there = pool.map(fs.exists, paths)
            missing = next((path for path, exists in zip(paths, there, strict=True) if not exists), None)
        if missing is not None:
            raise WrongUsage(f"INPUT: there is no {missing}")
        return Found(fs, base, paths)
    if glob.has_magic(first) and not fs.exists(first):
        base = posixpath.dirname(re.split(r"[*?[]", first)[0])
        matches = fs.glob(first, detail=True)
        return Found(fs, base, sorted(path for path, about in matches.items() if about["type"] == "file"))
    if fs.isfile(first):
        return Found(fs, posixpath.dirname(first), [first])
    if not fs.exists(first):
        raise WrongUsage(f"INPUT: there is nothing at {url}")
    return Found(fs, first, sorted(fs.find(first)))


def expanded(url: str) -> Iterator[str]:
    """`{0000..0099}` counted out, as WebDataset writes it; several of them, all combinations.

    Raises:
        WrongUsage: that would be too many.
    """
    counted = 1
    for low, high in _BRACES.findall(url):
        counted *= max(int(high) - int(low) + 1, 0)
    if not 0 < counted <= MOST_BRACES:
        raise WrongUsage(f"INPUT: {url} counts {counted} files, from 1 to {MOST_BRACES} are possible")
    return _expanded(url)


def _expanded(url: str) -> Iterator[str]:
    braces = _BRACES.search(url)
    if braces is None:
        yield url
        return
    low, high = braces[1], braces[2]
    for number in range(int(low), int(high) + 1):
        yield from _expanded(url[: braces.start()] + f"{number:0{len(low)}}" + url[braces.end() :])
