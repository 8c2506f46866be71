"""Changing one thing about a copy of the small Florence-2 checkpoint, as fine-tunes and downloads change it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from florence2_sam2.export import checkpoints, florence2_facts
from florence2_sam2.server import manifest

Body = dict[str, Any]
Weights = dict[str, torch.Tensor]

WEIGHTS = "model.safetensors"
SHARED = "model.language_model.shared.weight"


def copy(checkpoint: Path, folder: Path) -> Path:
    shutil.copytree(checkpoint, folder)
    return folder


def edit(folder: Path, file: str, change: Callable[[Body], Any]) -> None:
    """Change a JSON file in place."""
    body = json.loads((folder / file).read_text())
    change(body)
    (folder / file).write_text(json.dumps(body))


def set_fields(folder: Path, file: str, section: str | None = None, **fields: Any) -> None:
    """Set fields of a JSON file, or of one of its objects."""
    edit(folder, file, lambda body: (body[section] if section else body).update(fields))


def edit_weights(folder: Path, change: Callable[[Weights], Weights | None]) -> None:
    weights = load_file(folder / WEIGHTS)
    changed = change(weights)
    save_file(
        {key: tensor.contiguous() for key, tensor in (weights if changed is None else changed).items()},
        folder / WEIGHTS,
        metadata={"format": "pt"},
    )


def slow_tokenizer(folder: Path) -> None:
    """vocab.json, merges.txt and added_tokens.json instead of tokenizer.json, as the first fine-tunes have them."""
    body = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = body["model"]["vocab"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in body["model"]["merges"]]
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    added = {row["content"]: row["id"] for row in body["added_tokens"] if row["content"] not in vocabulary}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    (folder / "tokenizer.json").unlink()
    edit(
        folder,
        "tokenizer_config.json",
        lambda config: (config.pop("backend"), config.update(tokenizer_class="BartTokenizer")),
    )


def facts(folder: Path) -> manifest.Florence2:
    """Load as `export` does, up to the manifest; no graph is written."""
    checkpoint = checkpoints.find_checkpoint(str(folder))
    model = checkpoints.load_florence2(checkpoint)
    processor = florence2_facts.load_processor(checkpoint)
    image = florence2_facts.read_image(processor)
    with torch.no_grad():
        features = model.get_image_features(torch.zeros(1, 3, image.height, image.width)).pooler_output
    return florence2_facts.read_manifest(checkpoint, model, processor, features.shape[1], "fp32", "float", 18)
