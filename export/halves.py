"""Weights that float16 holds exactly are stored so: files of half the size, results unchanged.

Many checkpoints are published in float16 (Florence-2's are). Exported for float32 arithmetic, each of their weights
takes twice the bytes and says nothing more. Here such a weight is stored in float16 behind a Cast to float32;
onnxruntime folds the Cast away when it loads the file: neither speed nor a single bit of the results depends on it.
A table that rows are looked up in stays in float16 even then, only the rows are cast: half the memory of an embedding.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

# Below this a name and a node cost more than is saved, and shapes or scales are easier to read as they are.
SMALLEST = 4096  # bytes in float32


def store_exact_halves(model: onnx.ModelProto) -> None:
    """Store every float32 initializer of SMALLEST bytes or more in float16, if all its values survive that. In place.

    Values outside float16's range, or finer than its 11 bits, keep the tensor as it is; so does an initializer that the
    graph also lists as an input, since a caller may replace it.
    """
    graph = model.graph
    inputs = {value.name for value in graph.input}
    halves_of = {}  # the stored tensor, by the name of what it stands for
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or tensor.name in inputs:
            continue
        values = numpy_helper.to_array(tensor)
        if values.nbytes < SMALLEST:
            continue
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        # compared as bits: -0.0 must stay -0.0
        if not np.array_equal(halves.astype(np.float32).view(np.uint32), values.view(np.uint32)):
            continue
        name, stored = tensor.name, f"{tensor.name}_float16"
        tensor.CopyFrom(numpy_helper.from_array(halves, stored))
        halves_of[name] = stored
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "Gather" and node.input[0] in halves_of:
            nodes.append(_looked_up(node, halves_of[node.input[0]]))
    wanted = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    casts = [_cast(stored, name) for name, stored in halves_of.items() if name in wanted]
    del graph.node[:]
    graph.node.extend([*casts, *nodes])


def _looked_up(gather: onnx.NodeProto, table: str) -> onnx.NodeProto:
    """Let `gather` take its rows from `table`, in float16; returns the Cast that follows it."""
    result, rows = gather.output[0], f"{gather.output[0]}_float16"
    gather.input[0], gather.output[0] = table, rows
    return _cast(rows, result)


def _cast(source: str, result: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [result], f"{result}/Cast", to=onnx.TensorProto.FLOAT)
