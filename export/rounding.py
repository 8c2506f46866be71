"""What a float16 model computes on hardware that has float16, emulated in float32.

onnxruntime's CPU provider has no float16 arithmetic: it runs float16 nodes in float32 and removes the casts between
them, so that it neither rounds nor overflows (100.1 · 1000 / 1000 in float16 gives 100.1, not infinity). A comparison
with such a run shows how the weights were rounded and nothing else. `emulated` writes out what the nodes would give:
sums accumulated in float32, as GPUs do, and each result rounded to float16's 11 bits, and NaN beyond 65504. Only
numbers below float16's smallest normal one (6e-5) keep more digits than they would have.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from florence2_sam2.export.precision import tensor_types

# Their results are values that they were given, and need no rounding again.
_MOVING = frozenset(
    [
        "Concat",
        "Constant",
        "ConstantOfShape",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "Identity",
        "MaxPool",
        "Neg",
        "Pad",
        "Relu",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "Where",
    ]
)


def emulated(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 model whose results are those of `model`'s float16 arithmetic."""
    types = tensor_types(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        _widen(tensor)
    del result.graph.node[:]
    for original in model.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
            elif attribute.type == onnx.AttributeProto.TENSOR:
                _widen(attribute.t)
        half = [name for name in node.output if types.get(name) == TensorProto.FLOAT16]
        result.graph.node.append(node)
        if node.op_type in _MOVING:
            continue
        for name in half:
            place = list(node.output).index(name)
            result.graph.node[-1].output[place] = f"{name}:exact"
            result.graph.node.extend(_rounded(f"{name}:exact", name))
    for name, value in _CONSTANTS.items():
        result.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    del result.graph.value_info[:]
    return result


# Veltkamp's splitting: with c = (2¹³ + 1) · x in float32, c - (c - x) is x rounded to 24 - 13 = 11 bits.
_CONSTANTS = {"float16:split": 2.0**13 + 1, "float16:largest": 65504.0, "float16:overflow": float("nan")}


def _rounded(exact: str, name: str) -> list[onnx.NodeProto]:
    # The last step is no multiplication: onnxruntime would fold that into a matrix product behind it.
    steps = [
        ("Mul", (exact, "float16:split"), f"{name}:c"),
        ("Sub", (f"{name}:c", exact), f"{name}:low"),
        ("Sub", (f"{name}:c", f"{name}:low"), f"{name}:high"),
        ("Abs", (f"{name}:high",), f"{name}:size"),
        ("LessOrEqual", (f"{name}:size", "float16:largest"), f"{name}:fits"),
        ("Where", (f"{name}:fits", f"{name}:high", "float16:overflow"), name),
    ]
    return [helper.make_node(kind, inputs, [output], name=f"{output}:step") for kind, inputs, output in steps]


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        tensor.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
        )
