"""Which pictures the arguments of `segment` stand for: files, folders, patterns, lists, URLs."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

REMOTE = ("http://", "https://", "data:")
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # what the server reads
LISTS = (".jsonl", ".ndjson")
STDIN = "-"
# Where a line of a list is JSON, the first of these that it has is the picture.
KEYS = ("image_url", "url", "image", "path", "file_name", "picture")


class SourceError(Exception):
    """An argument stands for no picture. The message is one line for the user."""


@dataclass(frozen=True)
class Source:
    """Pictures as paths and URLs, in order, and how many there are; None where only the end of a stream will tell."""

    pictures: Iterable[str]
    total: int | None


def expand(arguments: Sequence[str], stdin: Iterable[str]) -> Source:
    """What `arguments` stand for.

    A folder stands for the pictures in it and below, hidden ones left out; a pattern (`*`, `?`, `[…]`, `**`) for what
    it matches; a `.jsonl` file and `-` (standard input) for a list: a line is a path or URL, or JSON with one of KEYS.
    Everything else is a picture's path or URL. With `-` lines are read as they come.

    Raises:
        SourceError: a folder or pattern without pictures, or a list that cannot be read.
    """
    if STDIN in arguments:
        return Source(_stream(arguments, stdin), None)
    pictures = [picture for argument in arguments for picture in _of(argument)]
    return Source(pictures, len(pictures))


def _stream(arguments: Sequence[str], stdin: Iterable[str]) -> Iterator[str]:
    for argument in arguments:
        yield from _lines(stdin, "standard input") if argument == STDIN else _of(argument)


def _of(argument: str) -> Iterator[str]:
    path = Path(argument)
    if argument.startswith(REMOTE):
        yield argument
    elif path.is_dir():
        found = sorted(
            file for file in path.rglob("*") if _is_picture(file.relative_to(path)) and file.is_file()
        )
        if not found:
            raise SourceError(f"{argument}: there is no picture in this folder ({', '.join(ENDINGS)})")
        yield from map(str, found)
    elif path.suffix.lower() in LISTS:
        try:
            with path.open(encoding="utf-8") as lines:
                yield from _lines(lines, argument)
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"{argument}: {getattr(error, 'strerror', None) or 'no UTF-8 text'}") from None
    elif glob.has_magic(argument) and not path.exists():
        matches = sorted(file for file in glob.glob(argument, recursive=True) if Path(file).is_file())
        if not matches:
            raise SourceError(f"{argument}: no file matches")
        yield from matches
    else:
        yield argument


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS and not any(part.startswith(".") for part in path.parts)


def _lines(lines: Iterable[str], name: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text.startswith("{"):
            if text:
                yield text
            continue
        try:
            body = json.loads(text)
        except ValueError:
            raise SourceError(f"{name}, line {number}: no JSON") from None
        picture = next((body[key] for key in KEYS if key in body), None)
        if not isinstance(picture, str):
            raise SourceError(f"{name}, line {number}: none of {', '.join(KEYS)} names a picture")
        yield picture
