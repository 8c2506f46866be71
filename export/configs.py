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
# `key: "trt_profile_min_shapes" value: "x:1x3x384x384,y:…"`: shapes that a TensorRT engine is built for.
PROFILE_KEYS = {
    "min": "trt_profile_min_shapes",
    "opt": "trt_profile_opt_shapes",
    "max": "trt_profile_max_shapes",
}
_PROFILE = re.compile(
    r'(?P<head>\bkey\s*:\s*"(?:' + "|".join(PROFILE_KEYS.values()) + r')"\s*value\s*:\s*")(?P<shapes>[^"]+)"'
)

Shapes = dict[str, tuple[int, ...]]


def set_dims(text: str, dims: Mapping[str, Sequence[int]]) -> str:
    """Replace the `dims` of the named tensors, in inputs, outputs, warm-up inputs and TensorRT's profiles.

    A -1 (dynamic axis) leaves the number that a warm-up or a profile has there, since they need one. A profile keeps
    its batch axis too, which `dims` do not have. Tensors that the text does not have are passed over: a caller that
    needs them uses `read_dims`.
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

    def profile(match: re.Match[str]) -> str:
        shapes = read_shapes(match["shapes"])
        for name, shape in shapes.items():
            if name in dims and len(shape) - len(dims[name]) in (0, 1):
                rest = shape[len(shape) - len(dims[name]) :]
                sizes = [old if new == -1 else new for new, old in zip(dims[name], rest, strict=True)]
                shapes[name] = (*shape[: len(shape) - len(sizes)], *sizes)
        return f'{match["head"]}{write_shapes(shapes)}"'

    return _PROFILE.sub(profile, _WARMUP.sub(warmup, _DECLARED.sub(declared, text)))


def read_shapes(text: str) -> Shapes:
    """`x:1x3x384x384,y:8x4`, as ONNX Runtime and trtexec write shapes, by name.

    Raises:
        ExportError: it is written another way.
    """
    try:
        pairs = [entry.rsplit(":", 1) for entry in text.split(",")]
        return {name: tuple(int(size) for size in sizes.split("x")) for name, sizes in pairs}
    except ValueError:
        raise ExportError(f"no shapes as name:1x2,name:3x4 has them: {text!r}") from None


def write_shapes(shapes: Mapping[str, Sequence[int]]) -> str:
    return ",".join(f"{name}:{'x'.join(str(size) for size in shape)}" for name, shape in shapes.items())


def read_profile(folder: Path) -> dict[str, Shapes]:
    """The smallest, the most usual and the largest shapes of a leaf model's inputs ("min", "opt" and "max"), for which
    TensorRT builds an engine. They stand in one of its configs, and hold for plans too.

    Raises:
        ExportError: the config is missing, or lacks one of the three.
    """
    path = folder / "configs" / "onnxruntime_tensorrt.pbtxt"
    try:
        config = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except (OSError, text_format.ParseError):
        raise ExportError(
            f"{folder.name} has no config onnxruntime_tensorrt with the shapes for TensorRT"
        ) from None
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    given = {key: value for row in accelerators for key, value in row.parameters.items()}
    missing = [key for key in PROFILE_KEYS.values() if key not in given]
    if missing:
        raise ExportError(f"{folder.name}'s config onnxruntime_tensorrt lacks {', '.join(missing)}")
    return {which: read_shapes(given[key]) for which, key in PROFILE_KEYS.items()}


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
    if (folder / "configs" / "onnxruntime_tensorrt.pbtxt").exists():
        _require_profile(folder, dims)


def _require_profile(folder: Path, dims: Mapping[str, Sequence[int]]) -> None:
    for which, shapes in read_profile(folder).items():
        for tensor, wanted in dims.items():
            have = shapes.get(tensor)
            if have is not None and not _ends_with(have, wanted):
                raise ExportError(
                    f"{folder.name}'s profile for TensorRT: the {which} shape of {tensor!r} is {have} and could not"
                    f" be set to {tuple(wanted)}"
                )


def _ends_with(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether `shape` is `wanted` with a number for each -1, behind a batch axis or none."""
    rest = shape[len(shape) - len(wanted) :]
    return len(shape) - len(wanted) in (0, 1) and all(w in (-1, s) for w, s in zip(wanted, rest, strict=True))
