"""8-bit weights behind float32 arithmetic: every product with a constant matrix becomes onnxruntime's MatMulNBits.

A weight is stored as one byte, with a scale and a zero point for each BLOCK values along the axis that is summed over.
A table that is looked up keeps its values, unless it is the matrix of a product too: then its rows are made of that
one's bytes. So a tied embedding and head are stored once, and the head is all that its rows lose by.

Why these settings. The errors are of the small checkpoint's logits, as a share of their spread:

- ACCURACY_LEVEL 4 rounds the inputs of a product to 8 bits as well, each row and block by a scale of its own, and
  multiplies bytes. The kernels of the other levels took 14 to 23 times as long.
- BLOCK: 16 gives 1.04 %, 32 1.22 %, 64 1.39 %, 128 1.60 %. A larger one is smaller (1 + 5 / BLOCK bytes a weight) and
  faster (32 takes 0.83, 64 0.80 of the time of 16). From 128 on, a row's result changes with the number of rows
  beside it on processors with AVX-512: by 1e-6 at first, which the next rounding to bytes makes 1e-2. Up to 64 a row
  has the same bits alone and beside 23 others.
- Zero points: without them a file is 3 % smaller and no faster, and the error is 1.33 % instead of 1.22 %.
- Looking a tied embedding up in the head's bytes gives 1.24 % instead of 1.22 %, and no table of its own is stored.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from types import ModuleType

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BITS = 8
BLOCK = 32
ACCURACY_LEVEL = 4


def to_eight_bits(model: onnx.ModelProto) -> onnx.ModelProto:
    """Quantise the constant matrices of all MatMul and Gemm nodes of a float32 model, rounding to nearest.

    `model` is used up. Its weights must be float32 initializers, not Casts of something else.
    """
    matrices = _gemms_to_matmuls(model)
    tool = _onnxruntimes_tool()
    settings = tool.DefaultWeightOnlyQuantConfig(
        bits=BITS, block_size=BLOCK, is_symmetric=False, accuracy_level=ACCURACY_LEVEL
    )
    quantizer = tool.MatMulNBitsQuantizer(model, algo_config=settings)
    quantizer.process()
    quantised: onnx.ModelProto = quantizer.model.model
    _look_up_bytes(quantised, matrices)
    return quantised


def _onnxruntimes_tool() -> ModuleType:
    """The module of onnxruntime's MatMulNBitsQuantizer. Where Python's logging is not configured its import does that,
    and every library's notes would go to the terminal."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        return importlib.import_module("onnxruntime.quantization.matmul_nbits_quantizer")
    finally:
        root.removeHandler(handler)


def _gemms_to_matmuls(model: onnx.ModelProto) -> dict[str, str]:
    """Gemm with a constant matrix → MatMul and Add: the quantiser knows MatMul only.

    Returns the name of each transposed matrix's transpose, by the name of the matrix.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    transposes: dict[str, str] = {}
    nodes = []
    for node in graph.node:
        settings = {setting.name: helper.get_attribute_value(setting) for setting in node.attribute}
        plain = not settings.get("transA") and settings.get("alpha", 1) == settings.get("beta", 1) == 1
        if node.op_type != "Gemm" or node.input[1] not in weights or not plain:
            nodes.append(node)
            continue
        matrix, product = node.input[1], f"{node.name}/product"
        if settings.get("transB"):
            if matrix not in transposes:
                transposes[matrix] = f"{matrix}_transposed"
                values = numpy_helper.to_array(weights[matrix]).T.copy()
                graph.initializer.append(numpy_helper.from_array(values, transposes[matrix]))
            matrix = transposes[matrix]
        bias = node.input[2:]
        outputs = [product] if bias else node.output
        nodes.append(helper.make_node("MatMul", [node.input[0], matrix], outputs, f"{node.name}/MatMul"))
        if bias:
            nodes.append(helper.make_node("Add", [product, *bias], node.output, f"{node.name}/Add"))
    _replace_nodes(graph, nodes)
    return transposes


def _look_up_bytes(model: onnx.ModelProto, transposes: Mapping[str, str]) -> None:
    """Tables that are looked up and have become a product's bytes: rows of bytes → (byte - zero point) · scale."""
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        table = node.input[0] if node.op_type == "Gather" else ""
        if (
            table not in transposes or tensors[table].dims[1] % BLOCK
        ):  # a last block that is not full has padding
            nodes.append(node)
            continue
        rows, width = tensors[table].dims
        parts = [f"{transposes[table]}_{part}" for part in ("Q8", "zero_points", "scales")]
        for part in parts[1:]:
            tensors[part].dims[:] = rows, width // BLOCK
        nodes += _lookup(node, *parts, width)
    _replace_nodes(graph, nodes)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _lookup(
    node: onnx.NodeProto, table: str, zero_points: str, scales: str, width: int
) -> list[onnx.NodeProto]:
    """The nodes in place of `node`, a Gather of rows of `width` values."""
    ids, output, name = node.input[1], node.output[0], node.name

    def constant(part: str, *values: int) -> onnx.NodeProto:
        tensor = numpy_helper.from_array(np.array(values, np.int64), f"{name}/{part}")
        return helper.make_node("Constant", [], [f"{name}/{part}"], f"{name}/{part}", value=tensor)

    def made(operator: str, part: str, *inputs: str, **settings: int) -> onnx.NodeProto:
        return helper.make_node(operator, inputs, [f"{name}/{part}"], f"{name}/{part}", **settings)

    return [
        constant("last_axis", -1),
        constant("row", 0, 0, width),
        made("Gather", "bytes", table, ids),
        made("Gather", "zero_points", zero_points, ids),
        made("Gather", "scales", scales, ids),
        made("Cast", "float_bytes", f"{name}/bytes", to=TensorProto.FLOAT),
        made("Cast", "float_zero_points", f"{name}/zero_points", to=TensorProto.FLOAT),
        made("Unsqueeze", "zero_point_column", f"{name}/float_zero_points", f"{name}/last_axis"),
        made("Unsqueeze", "scale_column", f"{name}/scales", f"{name}/last_axis"),
        made("Sub", "differences", f"{name}/float_bytes", f"{name}/zero_point_column"),
        made("Mul", "blocks", f"{name}/differences", f"{name}/scale_column"),
        helper.make_node("Reshape", [f"{name}/blocks", f"{name}/row"], [output], f"{name}/rows"),
    ]


def _replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    del graph.node[:]
    graph.node.extend(nodes)
