"""Which files of a hub repository an export reads, and the hashes they must have."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence2_sam2.hub.errors import HubError

WEIGHTS = "model.safetensors"
INDEX = WEIGHTS + ".index.json"
CONFIG = "config.json"
# What transformers reads beside the weights: model, generation, picture, tokenizer.
CONFIGS = (
    CONFIG,
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository. `digest` is git's SHA-1 of the blob (40 digits), or the SHA-256 of a large file's
    content (64 digits); the hub library names the downloaded file by it."""

    name: str
    size: int
    digest: str

    def is_content_of(self, path: Path) -> bool:
        """Whether the file at `path` has the size and the hash."""
        if path.stat().st_size != self.size:
            return False
        return digest_of(path, len(self.digest)) == self.digest


def digest_of(path: Path, length: int) -> str:
    """The SHA-256 of a file (`length` 64), or its SHA-1 as git stores it (40)."""
    with path.open("rb") as file:
        if length == 64:
            return hashlib.file_digest(file, "sha256").hexdigest()
        # https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
        return hashlib.sha1(
            b"blob %d\0" % path.stat().st_size + file.read(), usedforsecurity=False
        ).hexdigest()


def read_listing(description: Mapping[str, Any]) -> dict[str, HubFile]:
    """The files at the top of the repository that `Hub.describe` describes, by name.

    Raises:
        HubError: the hub lists files without their hashes.
    """
    try:
        return {
            row["rfilename"]: HubFile(row["rfilename"], _size(row), _digest(row))
            for row in description["siblings"]
            if "/" not in row["rfilename"]
        }
    except (KeyError, TypeError):
        raise HubError(
            "the hub lists files without their hashes, which must be verified: check HF_ENDPOINT"
        ) from None


def configs(repository: str, names: Iterable[str]) -> list[str]:
    """The small files to fetch first: configs, tokenizer, and the index of weights in several files.

    Raises:
        HubError: the repository holds no checkpoint, or only one that must be unpickled.
    """
    names = set(names)
    if CONFIG not in names:
        raise HubError(f"{repository} is no checkpoint of transformers: it has no {CONFIG}")
    found = [name for name in CONFIGS if name in names]
    if WEIGHTS in names:
        return found
    if INDEX in names:
        return [*found, INDEX]
    pickles = sorted(name for name in names if name.endswith(_PICKLES))
    if pickles:
        raise HubError(
            f"{repository} has its weights as {pickles[0]} only: unpickling a downloaded file can run code of whoever"
            " wrote it, so only safetensors are taken from the hub; convert it, and give the folder"
        )
    raise HubError(f"{repository} has no {WEIGHTS}")


def weights(repository: str, folder: Path, names: Iterable[str]) -> list[str]:
    """The files of weights, when those of `configs` lie in `folder`.

    Raises:
        HubError: the index is damaged, or names files that the repository lacks.
    """
    names = set(names)
    if WEIGHTS in names:
        return [WEIGHTS]
    try:
        shards = sorted(set(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise HubError(f"{repository}: {INDEX} is damaged or missing") from None
    missing = [name for name in shards if name not in names or not _SHARD.fullmatch(name)]
    if missing or not shards:
        raise HubError(
            f"{repository}: {INDEX} names {missing[0] if missing else 'nothing'}, which is not there"
        )
    return shards


def _size(row: Mapping[str, Any]) -> int:
    return int(row["lfs"]["size"] if row.get("lfs") else row["size"])


def _digest(row: Mapping[str, Any]) -> str:
    digest = row["lfs"]["sha256"] if row.get("lfs") else row["blobId"]
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", digest):
        raise KeyError("blobId")
    return str(digest)
