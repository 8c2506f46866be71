"""What an ONNX file of the repository takes and gives, declared as data, and how one is written.

A `Graph` names its tensors once; dynamic axes, the exporter's arguments, the shapes stored in the file and the `dims`
of Triton's configs all follow from that declaration.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
import torch
from torch import nn

from florence2_sam2.export.errors import ExportError
from florence2_sam2.export.precision import to_float16
from florence2_sam2.export.shrink import share_equal_initializers

Exporter = Literal["torchscript", "dynamo"]
Precision = Literal["fp32", "fp16"]

# protobuf cannot hold more than 2 GiB: from here on weights go to a file beside the graph (ONNX external data).
EXTERNAL_DATA_FROM_BYTES = 1_900_000_000


@dataclass(frozen=True)
class Tensor:
    """An input or output. Each of `axes` is a size, or the name of a dynamic axis."""

    name: str
    axes: tuple[int | str, ...]

    @property
    def dims(self) -> tuple[int, ...]:
        """Shape as Triton's configs write it: -1 for a dynamic axis."""
        return tuple(-1 if isinstance(axis, str) else axis for axis in self.axes)

    def dynamic_axes(self) -> dict[int, str]:
        return {index: axis for index, axis in enumerate(self.axes) if isinstance(axis, str)}


@dataclass(frozen=True)
class Graph:
    """One ONNX file: `file` is its path in the repository, `example` the inputs that the exporter traces with.

    `exporter` is the form that was measured faster in onnxruntime for this part. `float32_scopes` names submodules
    whose nodes stay float32 in an fp16 export.
    """

    file: str
    module: nn.Module
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    example: tuple[torch.Tensor, ...]
    exporter: Exporter = "torchscript"
    float32_scopes: tuple[str, ...] = ()

    def tensor(self, name: str) -> Tensor:
        return next(tensor for tensor in (*self.inputs, *self.outputs) if tensor.name == name)


def write_graph(
    graph: Graph,
    path: Path,
    opset: int,
    precision: Precision,
    external_data_from_bytes: int = EXTERNAL_DATA_FROM_BYTES,
) -> None:
    """Export `graph` to `path`; its weights go to `path` + ".data" when the file would be too large for protobuf.

    Raises:
        ExportError: the exported graph's inputs or outputs are not those declared.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".raw-") as folder:
        raw = Path(folder) / "model.onnx"
        _run_exporter(graph, raw, opset)
        model = onnx.load(raw)
    _require_names(graph, model)
    share_equal_initializers(model)
    if precision == "fp16":
        model = to_float16(model, graph.float32_scopes)
        share_equal_initializers(model)
    _declare_shapes(model, (*graph.inputs, *graph.outputs))
    data = path.with_name(path.name + ".data")
    if model.ByteSize() >= external_data_from_bytes:
        onnx.save_model(model, path, save_as_external_data=True, location=data.name, size_threshold=1024)
    else:
        onnx.save_model(model, path)
    onnx.checker.check_model(str(path))


def _run_exporter(graph: Graph, path: Path, opset: int) -> None:
    names = {
        "input_names": [tensor.name for tensor in graph.inputs],
        "output_names": [tensor.name for tensor in graph.outputs],
    }
    module = graph.module.eval()
    with torch.no_grad(), warnings.catch_warnings():
        # The exporters warn of every Python number that they take as constant; the checks with other shapes than the
        # example's are what shows whether that was right.
        warnings.simplefilter("ignore")
        if graph.exporter == "torchscript":
            dynamic = {
                tensor.name: tensor.dynamic_axes()
                for tensor in (*graph.inputs, *graph.outputs)
                if tensor.dynamic_axes()
            }
            torch.onnx.export(
                module,
                graph.example,
                str(path),
                opset_version=opset,
                dynamo=False,
                dynamic_axes=dynamic,
                **names,
            )
        else:
            sizes = {
                axis: torch.export.Dim(axis)
                for tensor in graph.inputs
                for axis in tensor.axes
                if isinstance(axis, str)
            }
            shapes = tuple(
                {index: sizes[axis] for index, axis in tensor.dynamic_axes().items()}
                for tensor in graph.inputs
            )
            torch.onnx.export(
                module,
                graph.example,
                str(path),
                opset_version=opset,
                dynamo=True,
                dynamic_shapes=shapes,
                external_data=True,
                verbose=False,
                **names,
            )


def _require_names(graph: Graph, model: onnx.ModelProto) -> None:
    found = ([value.name for value in model.graph.input], [value.name for value in model.graph.output])
    declared = ([tensor.name for tensor in graph.inputs], [tensor.name for tensor in graph.outputs])
    if found != declared:
        raise ExportError(f"{graph.file} has the inputs and outputs {found}, not {declared}")


def _declare_shapes(model: onnx.ModelProto, tensors: Iterable[Tensor]) -> None:
    """Store the declared axes in the file: the exporters leave some sizes unknown. The checks prove them true."""
    axes = {tensor.name: tensor.axes for tensor in tensors}
    for value in (*model.graph.input, *model.graph.output):
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        for axis in axes[value.name]:
            if isinstance(axis, str):
                shape.dim.add(dim_param=axis)
            else:
                shape.dim.add(dim_value=axis)
    # Shapes of inner values carry the exporter's own axis names, which the ones above may contradict.
    del model.graph.value_info[:]


def copy_weights(source: Path, target: Path) -> None:
    """Copy an ONNX file and its external data, if any."""
    for file in (source, source.with_name(source.name + ".data")):
        if file.exists():
            shutil.copy2(file, target.with_name(file.name))
