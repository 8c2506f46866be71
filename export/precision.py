"""float16 weights and arithmetic behind float32 inputs and outputs."""

from __future__ import annotations

import onnx
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

# Their sums overflow or lose digits in float16; they cost little beside the matrix products.
FLOAT32_OPERATORS = ("LayerNormalization", "Softmax", "ReduceMean", "ReduceSum")


def to_float16(model: onnx.ModelProto, float32_scopes: tuple[str, ...]) -> onnx.ModelProto:
    """Convert weights and nodes to float16, except FLOAT32_OPERATORS and the nodes of the named submodules.

    The graph's inputs and outputs stay float32, so callers need not know.
    """
    kept = [
        node.name for node in model.graph.node if any(f"/{scope}/" in node.name for scope in float32_scopes)
    ]
    converted = convert_float_to_float16(
        model,
        keep_io_types=True,
        op_block_list=[*DEFAULT_OP_BLOCK_LIST, *FLOAT32_OPERATORS],
        node_block_list=kept,
    )
    # A float32 node that uses one tensor twice gets its cast twice, and casts are appended at the end: ONNX wants each
    # tensor made once, and before its users.
    unique = list({tuple(node.output): node for node in converted.graph.node}.values())
    del converted.graph.node[:]
    converted.graph.node.extend(unique)
    OnnxModel(converted).topological_sort()
    return converted
