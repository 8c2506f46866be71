"""What can be wrong with the weights of a checkpoint, found before and after transformers reads them.

transformers reads on where a person would stop: it fills missing weights with random ones, skips those that it has
no place for, and takes an adapter for a checkpoint. Serving random numbers would look like a bad model.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from florence2_sam2.export.errors import ExportError

_LFS = b"version https://git-lfs"
_ADAPTER_PARTS = ("lora_", "base_layer", "modules_to_save")
_MICROSOFT_PART = "language_model.model."
MICROSOFT = (
    "it is in the form of Microsoft's remote code, which transformers' own classes do not read: take its conversion "
    "(florence-community/Florence-2-…), or fine-tune that one"
)


def require_readable(folder: Path, name: str, config: Mapping[str, Any]) -> None:
    """Look at the files of the checkpoint in `folder`, called `name`, without loading it.

    Raises:
        ExportError: they are an adapter's, quantised, missing, cut short, or no weights at all.
    """
    require_no_adapter(folder, name)
    if config.get("quantization_config"):
        method = (config["quantization_config"] or {}).get("quant_method", "some method")
        raise ExportError(
            f"{name} is quantised ({method}): export needs the weights that it was quantised from; "
            "--precision fp16 halves the files"
        )
    for index in sorted(folder.glob("*.index.json")):
        _require_shards(index, name)
    for file in sorted(folder.glob("*.safetensors")):
        _require_whole(file, name)
    if not any(folder.glob("*.safetensors")):
        for file in sorted(folder.glob("pytorch_model*.bin")):
            _require_plain(file, name)


def require_no_adapter(folder: Path, name: str) -> None:
    """Raises ExportError when the folder holds a PEFT adapter: alone it is no model, beside one it is not used."""
    if (folder / "adapter_config.json").is_file():
        raise ExportError(
            f"{name} is a PEFT adapter (adapter_config.json): merge it into its base model first, with "
            "`merge_and_unload()` and `save_pretrained()`"
        )


def require_complete(model: Any, report: Mapping[str, Any], name: str, folder: Path) -> None:
    """Hold transformers' report of what it loaded against what a served model needs.

    Raises:
        ExportError: weights are missing, of another shape, not numbers, or change answers and are not used.
    """
    kind = type(model).__name__
    unused = sorted(report["unexpected_keys"])
    missing = sorted(report["missing_keys"])
    if any(part in key for key in unused for part in _ADAPTER_PARTS):
        raise ExportError(
            f"{name} holds an adapter that was not merged: call `merge_and_unload()` before saving"
        )
    if missing:
        hint = f"; {MICROSOFT}" if any(key.startswith(_MICROSOFT_PART) for key in unused) else ""
        raise ExportError(f"{name} lacks {_weights(missing)} of a {kind}, {missing[0]} among them{hint}")
    for key, stored, wanted in sorted(report["mismatched_keys"], key=str):
        raise ExportError(f"{name}: {key} is {list(stored)} in the file, {list(wanted)} by config.json")
    for key in unused:
        if key.endswith("final_logits_bias") and _stored(folder, key).any():
            raise ExportError(f"{name} has a final_logits_bias that is not zero, which a {kind} does not add")
    if unused:
        print(
            f"{name}: {_weights(unused)} of the file are not a {kind}'s and not used, {unused[0]} among them"
        )
    for key, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ExportError(f"{name}: {key} holds values that are not finite numbers")


def _weights(keys: list[str]) -> str:
    return f"{len(keys)} weight{'s' * (len(keys) > 1)}"


def _require_shards(index: Path, name: str) -> None:
    try:
        parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ExportError(f"{name}: {index.name} is no index of weight files") from None
    missing = [part for part in parts if not (index.parent / part).is_file()]
    if missing:
        raise ExportError(
            f"{name}: {len(missing)} of {len(parts)} weight files are missing, {missing[0]} among them"
        )


def _require_whole(file: Path, name: str) -> None:
    _require_no_pointer(file, name)
    try:
        with safe_open(file, "pt") as weights:
            empty = not weights.keys()
    except SafetensorError as error:
        raise ExportError(f"{name}: {file.name} is damaged or incomplete ({error})") from None
    if empty:
        raise ExportError(f"{name}: {file.name} holds no weights")


def _require_plain(file: Path, name: str) -> None:
    """A pickle may run code when it is loaded; torch's own reader for weights refuses all but tensors."""
    _require_no_pointer(file, name)
    # torch has written zip files since 1.6 (2020); a zip's directory is at its end, so a cut one is none.
    if not zipfile.is_zipfile(file):
        raise ExportError(f"{name}: {file.name} is damaged or incomplete, or not written by torch.save")
    try:
        torch.load(file, map_location="meta", weights_only=True)
    except pickle.UnpicklingError:
        raise ExportError(
            f"{name}: {file.name} holds more than weights and is not loaded, since it could run any code; "
            "save the checkpoint with `save_pretrained()`, which writes safetensors"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ExportError(f"{name}: {file.name} is damaged or incomplete ({reason})") from None


def _require_no_pointer(file: Path, name: str) -> None:
    with file.open("rb") as stream:
        if stream.read(len(_LFS)) == _LFS:
            raise ExportError(
                f"{name}: {file.name} is only Git LFS's pointer to the weights: run `git lfs pull`"
            )


def _stored(folder: Path, key: str) -> torch.Tensor:
    """A tensor of the safetensors files; zeros where none has it (a pickle's was not looked at)."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            if key in weights.keys():  # noqa: SIM118 (no mapping)
                return weights.get_tensor(key)
    return torch.zeros(1)
