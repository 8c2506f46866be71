"""Another version of a repository: the same graphs with other weights, under another name, as a fine-tune is."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.speed.prepare import linked_copy
from florence2_sam2.server import manifest

EMBEDDING = "embedding.npy"
NOISE = 0.01  # of the table's own spread: it still writes captions
SEED = 1


def tuned(source: Path, target: Path, name: str) -> Path:
    """A copy of a repository in which Florence-2's embedding of tokens has moved a little, as training moves weights.
    Its manifest has that `name` as the checkpoint, and the hash of the new weights."""
    repository = linked_copy(source, target)
    folder = manifest.version_folder(repository, "florence2")
    spec = manifest.Florence2.read(folder)
    table = np.load(folder / EMBEDDING)
    noise = np.random.default_rng(SEED).normal(0, NOISE * float(table.std()), table.shape)
    for file in (EMBEDDING, manifest.MANIFEST):
        (folder / file).unlink()  # it may be a link to the original
    np.save(folder / EMBEDDING, (table + noise).astype(table.dtype))
    digest = hashlib.sha256((folder / EMBEDDING).read_bytes()).hexdigest()
    key = next(path for path in spec.files if Path(path).name == EMBEDDING)
    replace(
        spec,
        source=replace(spec.source, checkpoint=name, sha256=digest),
        files={**spec.files, key: digest},
    ).write(folder)
    return repository
