"""Weights that float16 holds exactly are stored so: files of half the size, results unchanged.

Many checkpoints are published in float16 (Florence-2's are). Exported for float32 arithmetic, each of their weights
takes twice the bytes and says nothing more. Here such a weight is stored in float16 behind a Cast to float32;
onnxruntime folds the Cast away when it loads the file: neither speed nor a single bit of the results depends on it.
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
    casts = []
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
        casts.append(helper.make_node("Cast", [stored], [name], f"{name}/Cast", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
