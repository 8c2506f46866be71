"""Meta's original SAM2 checkpoints (`sam2_hiera_tiny.pt`, `sam2.1_hiera_large.pt` …) → transformers' `Sam2Model`.

Such a file is a pickle. Only tensors are taken from it (`weights_only`): nothing in it is ever run.
"""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from transformers import Sam2Config, Sam2Model

from florence2_sam2.export import sam2_original
from florence2_sam2.export.errors import ExportError

# What torch.load raises on files that are damaged or something else, seen on some thousand of them.
_UNREADABLE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
)


def load(file: Path) -> Sam2Model:
    """The picture's part of one of Meta's SAM2 or SAM2.1 checkpoints, in float32 and with plain attention.

    The file holds `{"model": state dict}` as Meta's do, or the state dict alone; names may begin with `module.`, as
    they do when a model was saved inside DistributedDataParallel. The pictures' side is Meta's 1024: weights do not
    tell whether a fine-tune used another.

    Raises:
        ExportError: the file cannot be read, would run code, or is not exactly one of Meta's models.
    """
    try:
        return _model(_state(_content(file)))
    except ExportError as error:
        raise ExportError(f"{file.name}: {error}") from None


def _content(file: Path) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # what is wrong is said below, in one line
            return torch.load(file, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        message = str(error)
    with file.open("rb") as stream:
        start = stream.read(9)
    asked = re.search(r"nsupported (?:global: )?GLOBAL (\S+)", message)
    if asked:
        what = sam2_original.short(asked[1])
        raise ExportError(f"it asks to run {what}, and is not run; a state dict of tensors alone is read")
    if start.startswith(b"PK") and not zipfile.is_zipfile(file):
        raise ExportError("it is cut off or damaged: a zip archive without its end")
    if start[8:] == b"{":
        raise ExportError("this is a safetensors file: give the folder it lies in, with its config.json")
    if start.startswith(b"version h"):
        raise ExportError("this is a pointer of Git LFS, not the file itself: fetch it with git lfs pull")
    raise ExportError("this is no checkpoint that torch can read, or it is damaged")


def _state(content: Any) -> dict[str, torch.Tensor]:
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ExportError("it holds no state dict, neither as it is nor under 'model'")
    others = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if others:
        name, kind = sam2_original.short(others[0]), type(state[others[0]]).__name__
        raise ExportError(f"its {name} is {kind}, not a tensor")
    if state and all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _model(state: dict[str, torch.Tensor]) -> Sam2Model:
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    size = sam2_original.recognise(shapes)
    settings = sam2_original.settings(size) | {"attn_implementation": "eager"}
    with torch.device("meta"):  # shapes without memory
        model = Sam2Model(Sam2Config(**settings))
    sources = {name: sam2_original.original_names(name) for name in model.state_dict()}
    wanted = {
        source: (value.shape[0] // len(sources[name]), *value.shape[1:])
        for name, value in model.state_dict().items()
        for source in sources[name]
    }
    sam2_original.require_complete(shapes, wanted, f"{sam2_original.version(state)} {size.name}")
    for name in wanted:
        _require_numbers(name, state[name])
    tensors = {}
    for name, parts in sources.items():
        values = [state[part].to(torch.float32) for part in parts]
        tensors[name] = (torch.cat(values) if len(values) > 1 else values[0]).contiguous()
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def _require_numbers(name: str, value: torch.Tensor) -> None:
    if not value.is_floating_point() or value.layout != torch.strided or value.device.type != "cpu":
        kind = f"{value.dtype}, {value.layout}, on {value.device.type}"
        raise ExportError(f"its {name} holds no plain floating point numbers ({kind})")
    if not torch.isfinite(value).all():
        raise ExportError(f"its {name} holds values that are not finite")
