"""float16 weights and arithmetic behind float32 inputs and outputs, and which nodes must do without.

float16 has 11 bits and ends at 65504. What stays float32, and why:

- sums over many values (FLOAT32_OPERATORS): they overflow or lose digits, and cost little beside the matrix products;
- the submodules that a graph names (`Graph.float32_scopes`): arithmetic on pixels and thresholds on counts;
- nodes whose values come near the end of float16 with the weights at hand: that is measured, not guessed, since it
  hangs on the checkpoint (residual streams of vision transformers grow large in a few channels).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from florence2_sam2.server.onnx_session import CPU, SMALL_BYTES, open_session

FLOAT32_OPERATORS = ("LayerNormalization", "Softmax", "ReduceMean", "ReduceSum")

# Other pictures than the measured ones give larger values: an eighth of float16's largest finite number.
FLOAT16_SAFE = 65504 / 8


def to_float16(
    model: onnx.ModelProto, float32_scopes: tuple[str, ...], float32_nodes: Iterable[str] = ()
) -> onnx.ModelProto:
    """Convert weights and nodes to float16, except FLOAT32_OPERATORS, the nodes of the named submodules, and
    `float32_nodes`.

    The graph's inputs and outputs stay float32, so callers need not know.
    """
    kept = [
        node.name for node in model.graph.node if any(f"/{scope}/" in node.name for scope in float32_scopes)
    ]
    converted = convert_float_to_float16(
        model,
        keep_io_types=True,
        op_block_list=[*DEFAULT_OP_BLOCK_LIST, *FLOAT32_OPERATORS],
        node_block_list=[*kept, *float32_nodes],
    )
    # A float32 node that uses one tensor twice gets its cast twice, and casts are appended at the end: ONNX wants each
    # tensor made once, and before its users.
    unique = list({tuple(node.output): node for node in converted.graph.node}.values())
    del converted.graph.node[:]
    converted.graph.node.extend(unique)
    OnnxModel(converted).topological_sort()
    _remove_detours(converted)
    return converted


def _remove_detours(model: onnx.ModelProto) -> None:
    """The converter casts between two float32 nodes too, to float16 and back: a large value would not survive that."""
    types = tensor_types(model)
    casts = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    straight = {
        output: casts[middle]
        for output, middle in casts.items()
        if types.get(output) == TensorProto.FLOAT
        and types.get(middle) == TensorProto.FLOAT16
        and types.get(casts.get(middle, "")) == TensorProto.FLOAT
    }
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = straight.get(name, name)
    for _ in range(2):  # the casts back, then those to float16 that only they used
        used = {name for node in model.graph.node for name in node.input}
        used |= {value.name for value in model.graph.output}
        kept = [node for node in model.graph.node if node.op_type != "Cast" or node.output[0] in used]
        del model.graph.node[:]
        model.graph.node.extend(kept)


def nodes_beyond_float16(
    model: onnx.ModelProto, samples: Iterable[Mapping[str, NDArray[Any]]], folder: Path
) -> list[str]:
    """Names of the nodes of a float32 model that take or give values beyond FLOAT16_SAFE on one of the `samples`.

    `folder` is for a temporary file as large as the model.
    """
    magnitudes = largest_magnitudes(model, samples, folder)
    # written so that NaN counts
    large = {name for name, magnitude in magnitudes.items() if not magnitude <= FLOAT16_SAFE}
    return [node.name for node in model.graph.node if large & {*node.input, *node.output}]


def largest_magnitudes(
    model: onnx.ModelProto, samples: Iterable[Mapping[str, NDArray[Any]]], folder: Path
) -> dict[str, float]:
    """The largest |value| over the `samples` of every float32 tensor that a node of `model` computes.

    None of these may be empty, as a cache is before the first token.
    """
    types = tensor_types(model)
    measuring = onnx.ModelProto()
    measuring.CopyFrom(model)
    del measuring.graph.node[:]
    del measuring.graph.output[:]
    names: list[str] = []
    for node in model.graph.node:
        measuring.graph.node.append(node)
        if node.op_type == "Constant":
            continue
        for name in node.output:
            if types.get(name) == TensorProto.FLOAT:
                measuring.graph.node.extend(_measured(name))
                measuring.graph.output.append(
                    helper.make_tensor_value_info(f"{name}:largest", TensorProto.FLOAT, [])
                )
                names.append(name)
    largest = np.zeros(len(names))
    with tempfile.TemporaryDirectory(dir=folder, prefix=".magnitudes-") as temporary:
        path = Path(temporary) / "model.onnx"
        weights = sum(len(tensor.raw_data) for tensor in measuring.graph.initializer)
        onnx.save_model(measuring, path, save_as_external_data=True, location="weights", size_threshold=1024)
        del measuring
        # Each value is measured when it has been computed: kept until the end, they would be tens of gigabytes.
        session = open_session(path, [CPU], reuse_memory=weights >= SMALL_BYTES, as_listed=True)
        for sample in samples:
            largest = np.maximum(largest, session.run(None, dict(sample)))
    return dict(zip(names, largest.tolist(), strict=True))


def _measured(name: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Abs", [name], [f"{name}:abs"]),
        helper.make_node("ReduceMax", [f"{name}:abs"], [f"{name}:largest"], keepdims=0),
    ]


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of each tensor of a model (onnx.TensorProto's numbers), also of one beyond protobuf's 2 GB."""
    skeleton = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    skeleton.graph.name = "types"
    skeleton.graph.node.extend(model.graph.node)
    skeleton.graph.input.extend(model.graph.input)
    skeleton.graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        # A weight's type is enough; the small ones (shapes, axes) decide more.
        if len(tensor.raw_data) <= 1024:
            skeleton.graph.initializer.append(tensor)
        else:
            skeleton.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    inferred = onnx.shape_inference.infer_shapes(skeleton).graph
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
    }
    return types | {tensor.name: tensor.data_type for tensor in model.graph.initializer}
