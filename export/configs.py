"""Sizes of tensors in Triton's config files, set in the text itself so that its comments and layout survive."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2

from florence2_sam2.export.errors import ExportError

# `name: "x" … dims: [ … ]` of an input or output, and `key: "x" value: { … dims: [ … ]` of a warm-up input.
# A comment inside an entry may hold anything but quotes and brackets.
_DECLARED = re.compile(
    r'(?P<head>\bname\s*:\s*"(?P<name>[^"]+)"[^{}"\[\]]*?\bdims\s*:\s*\[)(?P<dims>[^\]]*)\]'
)
_WARMUP = re.compile(
    r'(?P<head>\bkey\s*:\s*"(?P<name>[^"]+)"\s*value\s*:?\s*\{[^{}"\[\]]*?\bdims\s*:\s*\[)(?P<dims>[^\]]*)\]'
)


def set_dims(text: str, dims: Mapping[str, Sequence[int]]) -> str:
    """Replace the `dims` of the named tensors, in inputs, outputs and warm-up inputs.

    A -1 (dynamic axis) leaves a warm-up's own number there, since a warm-up needs one. Tensors that the text does not
    have are passed over: a caller that needs them uses `read_dims`.
    """

    def declared(match: re.Match[str]) -> str:
        wanted = dims.get(match["name"])
        return match[0] if wanted is None else _written(match, wanted)

    def warmup(match: re.Match[str]) -> str:
        wanted = dims.get(match["name"])
        if wanted is None:
            return match[0]
        old = [int(number) for number in match["dims"].split(",") if number.strip()]
        if len(old) != len(wanted):
            old = [1] * len(wanted)
        return _written(match, [keep if new == -1 else new for new, keep in zip(wanted, old, strict=True)])

    return _WARMUP.sub(warmup, _DECLARED.sub(declared, text))


def _written(match: re.Match[str], dims: Sequence[int]) -> str:
    return f"{match['head']} {', '.join(str(size) for size in dims)} ]"


def read_dims(text: str) -> tuple[dict[str, tuple[int, ...]], dict[str, list[tuple[int, ...]]]]:
    """Parse a config: sizes of its inputs and outputs by name, and of its warm-up inputs by name.

    Raises:
        ExportError: the text is no model config.
    """
    try:
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise ExportError(f"not a model config: {error}") from None
    tensors = {tensor.name: tuple(tensor.dims) for tensor in (*config.input, *config.output)}
    warmups: dict[str, list[tuple[int, ...]]] = {}
    for sample in config.model_warmup:
        for name, tensor in sample.inputs.items():
            warmups.setdefault(name, []).append(tuple(tensor.dims))
    return tensors, warmups


def rewrite(folder: Path, dims: Mapping[str, Sequence[int]]) -> None:
    """Set `dims` in every config of one model's folder, and make sure by parsing that they are what Triton reads.

    Raises:
        ExportError: a config lacks one of the tensors, or does not have the sizes afterwards.
    """
    for path in (folder / "config.pbtxt", *sorted((folder / "configs").glob("*.pbtxt"))):
        name = f"{folder.name}/{path.relative_to(folder)}"
        text = set_dims(path.read_text(encoding="utf-8"), dims)
        try:
            tensors, warmups = read_dims(text)
        except ExportError as error:
            raise ExportError(f"{name} is {error}") from None
        for tensor, wanted in dims.items():
            if tensor not in tensors:
                raise ExportError(f"{name} has no tensor {tensor!r}")
            if tensors[tensor] != tuple(wanted):
                raise ExportError(
                    f"{name}: dims of {tensor!r} are {tensors[tensor]} and could not be set to {wanted}"
                )
            for warmup in warmups.get(tensor, []):
                if len(warmup) != len(wanted) or any(
                    w not in (-1, s) for w, s in zip(wanted, warmup, strict=True)
                ):
                    raise ExportError(
                        f"{name}: the warm-up's dims of {tensor!r} could not be set to {wanted}"
                    )
        path.write_text(text, encoding="utf-8")
