"""The shapes of all values of a graph, and the values that follow from them, without running it.

Node by node: what is computed from shapes and small constants alone is computed (by ONNX's reference implementation),
of everything else only type and shape are worked out (by ONNX's shape inference). It takes no weights and none of the
memory of a run, in which a vision tower of full size needs gigabytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.shape_inference import InferenceError, infer_node_outputs

Shape = tuple[int, ...]
Array = NDArray[Any]

# Larger constants are weights.
_MOST_ELEMENTS = 2**16


@dataclass
class Measured:
    """For one size of the inputs. `shapes` and `types` (ONNX's element types) by name, where they could be worked out;
    `values` that follow from shapes and constants; `constants`: which of these follow from constants alone."""

    shapes: dict[str, Shape] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)
    constants: set[str] = field(default_factory=set)

    def put(self, name: str, value: Array) -> None:
        self.shapes[name], self.values[name] = value.shape, value
        self.types[name] = helper.np_dtype_to_tensor_dtype(value.dtype)

    def type_of(self, name: str) -> onnx.TypeProto:
        return helper.make_tensor_type_proto(self.types[name], self.shapes.get(name))


def measure(model: onnx.ModelProto, inputs: Mapping[str, Shape]) -> Measured:
    """What is known of the model's values for inputs of these shapes."""
    found, graph = Measured(), model.graph
    opsets = {row.domain: row.version for row in model.opset_import}
    for value in graph.input:
        found.types[value.name] = value.type.tensor_type.elem_type
        found.shapes[value.name] = tuple(inputs[value.name])
    for tensor in graph.initializer:
        found.types[tensor.name], found.shapes[tensor.name] = tensor.data_type, tuple(tensor.dims)
        if np.prod(tensor.dims) <= _MOST_ELEMENTS:
            found.put(tensor.name, numpy_helper.to_array(tensor))
            found.constants.add(tensor.name)
    for node in graph.node:
        _measure_node(node, found, opsets)
    return found


def _measure_node(node: onnx.NodeProto, found: Measured, opsets: Mapping[str, int]) -> None:
    taken = [name for name in node.input if name]
    if node.op_type == "Shape":
        if node.input[0] in found.shapes:
            shape = found.shapes[node.input[0]]
            asked = {row.name: row.i for row in node.attribute}
            found.put(
                node.output[0],
                np.array(shape[asked.get("start", 0) : asked.get("end", len(shape))], np.int64),
            )
        else:
            found.types[node.output[0]] = onnx.TensorProto.INT64
    elif not node.domain and all(name in found.values for name in taken):
        evaluator = ReferenceEvaluator(node, opsets=dict(opsets))
        results: Any = evaluator.run(None, {name: found.values[name] for name in taken})
        for name, result in zip(node.output, results, strict=True):
            value = np.asarray(result)
            found.put(name, value)
            if all(name in found.constants for name in taken):
                found.constants.add(name)
            if value.size > _MOST_ELEMENTS:
                del found.values[name]
    elif node.op_type == "MultiHeadAttention":  # onnxruntime's: as its queries
        for kept in (found.types, found.shapes):
            if node.input[0] in kept:
                kept[node.output[0]] = kept[node.input[0]]  # type: ignore[index,assignment]
    else:
        _infer(node, taken, found, opsets)


def _infer(node: onnx.NodeProto, taken: list[str], found: Measured, opsets: Mapping[str, int]) -> None:
    if any(name not in found.types for name in taken):
        return
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets[node.domain], node.domain)
        outputs = infer_node_outputs(
            schema,
            node,
            {name: found.type_of(name) for name in taken},
            {name: numpy_helper.from_array(found.values[name]) for name in taken if name in found.values},
            opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets.items()],
        )
    except (onnx.defs.SchemaError, InferenceError):  # another's operator: what follows is not known
        return
    for name, told in outputs.items():
        tensor = told.tensor_type
        found.types[name] = tensor.elem_type
        if tensor.HasField("shape") and all(side.HasField("dim_value") for side in tensor.shape.dim):
            found.shapes[name] = tuple(side.dim_value for side in tensor.shape.dim)
