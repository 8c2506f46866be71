"""A model repository that lies in an object store, copied into the cache once, and compared with its manifests."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from florence2_sam2.cache.obtain import Obtained, Say, take
from florence2_sam2.cache.recipe import slug
from florence2_sam2.cache.store import REPOSITORY, Cache, Entry
from florence2_sam2.server import manifest
from florence2_sam2.server.container.models import Folder, StoreFailed
from florence2_sam2.server.launch.checks import check_repository
from florence2_sam2.server.launch.errors import StartError
from florence2_sam2.server.store import StoreError, refuse_credentials

HALVES = ("florence2", "sam2")
# Of configs, code, tokenizers and manifests together, which each start reads to see whether something has changed.
MAX_SMALL_BYTES = 64 * 2**20
_HASH_DIGITS = 12


def is_url(text: str) -> bool:
    """Whether a repository's place is a URL and no path of this machine."""
    return "://" in text


def fetch(url: str, cache: Cache, say: Say, check_hashes: bool = True) -> Obtained:
    """The repository at `url`, which fsspec reads (`s3://bucket/models-2026-11`), from the cache or copied into it.

    What lies there is known by its manifests, which have the large files' hashes, and by the content of all others.
    Where the store does not answer, what was copied from that URL last is served, and a line says so.

    Args:
        say: gets one line for each thing that takes time or was decided.
        check_hashes: compare a copy of an earlier start with its manifests, as a new one always is.

    Raises:
        StartError, CacheError: one line that says what is wrong and what to do.
    """
    try:
        refuse_credentials(url, "--repository")
    except StoreError as error:
        raise StartError(str(error)) from None
    try:
        folder = Folder(url)
        digest, halves = identity(folder.sizes, folder.read)
    except StoreFailed as error:
        earlier = _earlier(url, cache)
        if earlier is None:
            raise
        say(f"{error}: serving what was copied from there before")
        return take(earlier, functools.partial(_raise, error), _words(url), cache, say, check_hashes)
    entry = cache.entry(f"{slug(url)}-{digest[:_HASH_DIGITS]}")

    def copy() -> None:
        cache.prepare(entry, {"url": url, **halves})
        say(f"copying {url} into {entry.folder}: once")
        draft = entry.folder / f".{REPOSITORY}-{os.getpid()}"
        try:
            folder.copy(draft)
            check_repository(draft)
            names = [path.relative_to(draft).as_posix() for path in draft.rglob("*") if path.is_file()]
            if identity(dict.fromkeys(names), lambda name: (draft / name).read_bytes())[0] != digest:
                raise StartError("the models have changed in the store while they were copied: start again")
            draft.rename(entry.repository)
        except BaseException:
            entry.discard()
            raise

    obtained = take(entry, copy, _words(url), cache, say, check_hashes)
    os.utime(entry.folder)  # the last one that was served is what is taken when the store is away
    return obtained


def identity(
    sizes: dict[str, int | None], read: Callable[[str], bytes]
) -> tuple[str, dict[str, dict[str, Any]]]:
    """A hash over a whole repository for which its large files need not be read, and what its halves are.

    Raises:
        StartError: it has no manifests, or they cannot be read, or too much stands beside what they name.
    """
    hashes: dict[str, str] = {}
    halves: dict[str, dict[str, Any]] = {}
    for half in HALVES:
        body = _manifest(half, sizes, read)
        try:
            source = body["source"]
            halves[half] = {"name": str(source["checkpoint"]), "revision": f"sha256:{source['sha256']}"}
            hashes.update({str(name): str(digest) for name, digest in body["files"].items()})
        except (KeyError, TypeError, AttributeError):
            raise StartError(f"the manifest of {half} in the store cannot be read: export again") from None
    small = [name for name in sizes if name not in hashes]
    if sum(sizes[name] or 0 for name in small) > MAX_SMALL_BYTES:
        raise StartError(
            "the store has large files at that URL which no manifest names: is it one repository?"
        )
    for name in small:
        hashes[name] = hashlib.sha256(read(name)).hexdigest()
    digest = hashlib.sha256()
    for name in sorted(sizes):
        digest.update(f"{name}\0{hashes[name]}\0".encode())
    return digest.hexdigest(), halves


def _manifest(half: str, names: Iterable[str], read: Callable[[str], bytes]) -> Any:
    parts = [name.split("/") for name in names]
    versions = [
        int(part[1])
        for part in parts
        if len(part) == 3 and part[0] == half and part[1].isdigit() and part[2] == manifest.MANIFEST
    ]
    if not versions:
        raise StartError(f"the {half} half of the model repository is missing in the store")
    try:
        return json.loads(read(f"{half}/{max(versions)}/{manifest.MANIFEST}"))
    except ValueError:
        raise StartError(f"the manifest of {half} in the store cannot be read: export again") from None


def _earlier(url: str, cache: Cache) -> Entry | None:
    found = [entry for entry in cache.entries() if entry.is_whole and entry.recipe().get("url") == url]
    return max(found, key=lambda entry: Path(entry.folder).stat().st_mtime, default=None)


def _words(url: str) -> tuple[str, str]:
    return f"another process copies {url}: waiting for it", f"{url}: copied before"


def _raise(error: Exception) -> None:
    raise error
