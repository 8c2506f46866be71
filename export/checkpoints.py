"""Checkpoints: an ordinary `from_pretrained` folder or a hub id → a float32 model and where it came from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Florence2ForConditionalGeneration, Sam2Model

from florence2_sam2.export import sam2_original_file, weights
from florence2_sam2.export.errors import ExportError
from florence2_sam2.hub import download, names
from florence2_sam2.hub.errors import HubError
from florence2_sam2.server.manifest import Source


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's folder on this machine, and its origin without any path of this machine in it."""

    folder: Path
    source: Source

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the checkpoint, empty when it has none of that name."""
        path = self.folder / name
        if not path.is_file():
            return {}
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ExportError(f"{path} is no JSON: {error}") from None
        if not isinstance(body, dict):
            raise ExportError(f"{path} is no JSON object")
        return body


def find_checkpoint(folder_or_id: str) -> Checkpoint:
    """Resolve a folder, one of Meta's SAM2 files, or NAME@REVISION on the hub (downloaded into the hub's own cache).

    Raises:
        ExportError: neither exists, or it holds no weights.
    """
    folder = Path(folder_or_id).expanduser()
    name, revision = folder.resolve().name, None
    if folder.is_file():  # one of Meta's own files: `load_sam2` reads it
        return Checkpoint(folder, Source(folder.name, hash_files([folder])))
    if not folder.is_dir():
        try:
            on_hub = names.parse(folder_or_id)
            if isinstance(on_hub, names.HubName):
                folder, revision = download.fetch(on_hub, print)
                name = on_hub.repository
        except HubError as error:
            raise ExportError(str(error)) from None
    weights.require_no_adapter(folder, name)
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files or not (folder / "config.json").is_file():
        raise ExportError(f"{folder_or_id} is no checkpoint: it needs config.json and *.safetensors")
    return Checkpoint(folder, Source(name, hash_files(files), revision))


def hash_files(files: list[Path]) -> str:
    """SHA-256 over the contents of `files` in order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def load_florence2(checkpoint: Checkpoint) -> Florence2ForConditionalGeneration:
    """Raises ExportError when it is no Florence-2 of transformers' own classes, or its weights are not complete."""
    _require_type(checkpoint, "--florence2", ("florence2",))
    config = checkpoint.read_json("config.json")
    parts = {str((config.get(part) or {}).get("model_type")) for part in ("text_config", "vision_config")}
    if parts & {"florence2_language", "davit"}:
        raise ExportError(f"--florence2: {checkpoint.source.checkpoint}: {weights.MICROSOFT}")
    # transformers takes a damaged one for none, and decodes with other settings.
    checkpoint.read_json("generation_config.json")
    return _load(Florence2ForConditionalGeneration, checkpoint)


def load_sam2(checkpoint: Checkpoint) -> Sam2Model:
    """Raises ExportError when it is no SAM2 of transformers' own classes, or its weights are not complete."""
    if checkpoint.folder.is_file():
        return sam2_original_file.load(checkpoint.folder)
    # The released checkpoints are stored as video models; Sam2Model takes the picture's part of them.
    _require_type(checkpoint, "--sam2", ("sam2", "sam2_video"))
    return _load(Sam2Model, checkpoint)


def _require_type(checkpoint: Checkpoint, flag: str, types: tuple[str, ...]) -> None:
    if checkpoint.folder.is_file():
        raise ExportError(f"{flag}: {checkpoint.source.checkpoint} is a file: give a folder or a hub id")
    found = checkpoint.read_json("config.json").get("model_type")
    if found not in types:
        raise ExportError(
            f"{flag}: {checkpoint.source.checkpoint} is a {found!r} checkpoint, not {types[0]!r} of transformers"
        )


def _load(kind: Any, checkpoint: Checkpoint) -> Any:
    """Load in float32 whatever the checkpoint stores: else an fp16 checkpoint would be compared with itself in fp16.

    Attention is the plain form, whose operators every ONNX runtime has.
    """
    name = checkpoint.source.checkpoint
    weights.require_readable(checkpoint.folder, name, checkpoint.read_json("config.json"))
    try:
        model, report = kind.from_pretrained(
            checkpoint.folder,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
    except (OSError, ValueError, TypeError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ExportError(f"{name}: transformers does not load it as a {kind.__name__}: {reason}") from None
    weights.require_complete(model, report, name, checkpoint.folder)
    others = {parameter.dtype for parameter in model.parameters()} - {torch.float32}
    if others:
        raise ExportError(f"{name} was loaded as {others}, not float32")
    return model.eval()
