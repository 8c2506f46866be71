"""What decides an export, and so the name of its folder in the cache."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence2_sam2.server import manifest

_HASH_DIGITS = 12


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint with its content. `revision`: a commit on the hub, or `sha256:…` of a local one's files.

    `name` is what the manifest calls it; `argument` is what `export` takes for it, and of no importance for the result.
    """

    name: str
    revision: str
    argument: str = dataclasses.field(compare=False)

    def __str__(self) -> str:
        return f"{self.name}@{self.revision.removeprefix('sha256:')[:_HASH_DIGITS]}"


@dataclass(frozen=True)
class Recipe:
    """An export's ingredients: two recipes are equal where their exports are."""

    florence2: Checkpoint
    sam2: Checkpoint
    precision: str
    decoder_weights: str

    def body(self) -> dict[str, Any]:
        """The ingredients as JSON takes them."""
        return {
            "florence2": {"name": self.florence2.name, "revision": self.florence2.revision},
            "sam2": {"name": self.sam2.name, "revision": self.sam2.revision},
            "precision": self.precision,
            "decoder_weights": self.decoder_weights,
            "code": code_hash(),
        }

    def key(self) -> str:
        """The folder's name: readable, and different where an ingredient is."""
        text = json.dumps(self.body(), sort_keys=True)
        parts = [slug(self.florence2.name), slug(self.sam2.name)]
        digits = hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS]
        decoder = "-int8-decoder" if self.decoder_weights == "int8" else ""
        return f"{'+'.join(parts)}-{self.precision}{decoder}-{digits}"

    def __str__(self) -> str:
        decoder = " with an int8 decoder" if self.decoder_weights == "int8" else ""
        return f"{self.florence2} and {self.sam2}, {self.precision}{decoder}"


@functools.cache
def code_hash() -> str:
    """A hash over the code that writes a repository, and over what it copies into it.

    Taken from the files, so that no one has to remember to raise a number when an export's result changes.
    """
    package = Path(manifest.__file__).parents[1]
    templates = manifest.packaged_repository()
    files = [*_export_folder(package).glob("*.py"), Path(manifest.__file__)]
    files += [path for path in templates.rglob("*") if path.name == "model.py" or path.suffix == ".pbtxt"]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(package).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[: 2 * _HASH_DIGITS]


def _export_folder(package: Path) -> Path:
    return package / "export"


def slug(name: str) -> str:
    """The last part of a name, as a folder can be called."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name.rpartition("/")[2]).strip("-.") or "checkpoint"
