"""What an ONNX file of the repository takes and gives, declared as data, and how one is written.

A `Graph` names its tensors once; dynamic axes, the exporter's arguments, the shapes stored in the file and the `dims`
of Triton's configs all follow from that declaration.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from florence2_sam2.export.attention import fused
from florence2_sam2.export.attention_biases import move_biases
from florence2_sam2.export.channels_last import add_channels_last
from florence2_sam2.export.constant_shapes import fix_shapes, probes
from florence2_sam2.export.eight_bits import to_eight_bits
from florence2_sam2.export.errors import ExportError
from florence2_sam2.export.halves import store_exact_halves
from florence2_sam2.export.layer_norms import scale_in_products
from florence2_sam2.export.precision import nodes_beyond_float16, to_float16
from florence2_sam2.export.rounding import emulated
from florence2_sam2.export.shrink import share_equal_initializers
from florence2_sam2.server.manifest import external_data
from florence2_sam2.server.onnx_session import SMALL_BYTES

Precision = Literal["fp32", "fp16"]  # of an export
DecoderWeights = Literal["float", "int8"]  # of an export's text decoder; float: as its precision says
Form = Literal["fp32", "fp16", "int8"]  # of one graph; int8: 8-bit weights, float32 arithmetic
Attention = Literal["fused", "parts"]  # of one graph (see `attention`)

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

    `float32_scopes` names submodules whose nodes stay float32 in an fp16 export. In a graph that is `fusible` attention
    may be one operator each.
    """

    file: str
    module: nn.Module
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    example: tuple[torch.Tensor, ...]
    float32_scopes: tuple[str, ...] = ()
    fusible: bool = False

    def tensor(self, name: str) -> Tensor:
        return next(tensor for tensor in (*self.inputs, *self.outputs) if tensor.name == name)


def write_graph(
    graph: Graph,
    path: Path,
    opset: int,
    form: Form,
    samples: Iterable[Mapping[str, NDArray[Any]]] = (),
    external_data_from_bytes: int | None = None,
    attention: Attention = "fused",
) -> None:
    """Export `graph` to `path`; its weights go to `path` + ".data" when they have `external_data_from_bytes` or more
    (EXTERNAL_DATA_FROM_BYTES by default).

    `samples` are inputs on which a float16 export measures which nodes must stay float32. `attention` is for a graph
    that is fusible, in float32.

    Raises:
        ExportError: the exported graph's inputs or outputs are not those declared.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".raw-") as folder:
        raw = Path(folder) / "model.onnx"
        # In float16 the parts stay apart: which of them must be float32 is measured for each (see `precision`), and
        # TensorRT knows them, but not onnxruntime's operator.
        whole = graph.fusible and form != "fp16" and attention == "fused"
        with fused(graph.module) if whole else nullcontext():
            _run_exporter(graph, raw, opset)
        model = onnx.load(raw)
    _require_names(graph, model)
    fix_shapes(model, probes(_examples(graph)))
    add_channels_last(model)
    share_equal_initializers(model)
    if form == "fp16":
        kept = nodes_beyond_float16(model, samples, path.parent)
        model = to_float16(model, graph.float32_scopes, kept)
        share_equal_initializers(model)
    else:
        if form == "int8":
            model = to_eight_bits(model)
            share_equal_initializers(model)  # two products with one matrix gave it two of the same name
        store_exact_halves(model)
    if whole:  # for onnxruntime on a CPU
        if _weights_bytes(model) < SMALL_BYTES:
            scale_in_products(model, probes(_examples(graph)))
            share_equal_initializers(model)
        move_biases(model, next(probes(_examples(graph))))
    _declare_shapes(model, (*graph.inputs, *graph.outputs))
    _save(model, path, external_data_from_bytes)
    del model  # the checker reads the file again
    onnx.checker.check_model(str(path))


@contextmanager
def computed(path: Path, form: Form) -> Iterator[Path]:
    """The file to check instead of `path`, which on this machine computes what `path` does where it will be served.

    That is `path` itself, but for float16, which a CPU computes in float32 (see `rounding`).
    """
    if form != "fp16":
        yield path
        return
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".emulated-") as folder:
        file = Path(folder) / path.name
        _save(emulated(onnx.load(path)), file)
        yield file


def _save(model: onnx.ModelProto, path: Path, external_data_from_bytes: int | None = None) -> None:
    limit = EXTERNAL_DATA_FROM_BYTES if external_data_from_bytes is None else external_data_from_bytes
    if _weights_bytes(model) >= limit:
        name = external_data(path).name
        onnx.save_model(model, path, save_as_external_data=True, location=name, size_threshold=1024)
    else:
        onnx.save_model(model, path)


def _weights_bytes(model: onnx.ModelProto) -> int:
    """Not `ByteSize()`, which fails beyond 2 GiB."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def _run_exporter(graph: Graph, path: Path, opset: int) -> None:
    """torch's TorchScript-based exporter: for these modules its graphs run as fast as the newer exporter's (within 4 %
    on a CPU), it takes seconds instead of minutes, and its node names tell which submodule a node comes from."""
    tensors = (*graph.inputs, *graph.outputs)
    with torch.no_grad(), warnings.catch_warnings():
        # It warns of every Python number that it takes as constant; the checks with other shapes than the example's
        # are what shows whether that was right.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.module.eval(),
            graph.example,
            str(path),
            dynamo=False,
            opset_version=opset,
            input_names=[tensor.name for tensor in graph.inputs],
            output_names=[tensor.name for tensor in graph.outputs],
            dynamic_axes={tensor.name: tensor.dynamic_axes() for tensor in tensors if tensor.dynamic_axes()},
        )


def _examples(graph: Graph) -> dict[str, tuple[tuple[int | str, ...], tuple[int, ...]]]:
    """Axes and the example's shape of each input."""
    pairs = zip(graph.inputs, graph.example, strict=True)
    return {tensor.name: (tensor.axes, tuple(example.shape)) for tensor, example in pairs}


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
