"""8-bit weights behind float32 arithmetic: every product with a constant matrix becomes onnxruntime's MatMulNBits.

A weight is stored as one byte, with a scale and a zero point for each BLOCK values along the axis that is summed over.
A table that is looked up keeps its values, unless it is the matrix of a product too: then its rows are made of that
one's bytes, so that a tied embedding and head are stored once.

Why these settings. The errors are of the small checkpoint's logits, as a share of their spread:

- ACCURACY_LEVEL 4 rounds the inputs of a product to 8 bits as well, each row and block by a scale of its own, and
  multiplies bytes. The kernels of the other levels took 14 to 23 times as long.
- BLOCK: 16 gives 1.04 %, 32 1.22 %, 64 1.39 %, 128 1.60 %. A larger one is smaller (1 + 5 / BLOCK bytes a weight) and
  faster (32 takes 0.83, 64 0.80 of the time of 16). From 128 on, a row's result changes with the number of rows
  beside it on processors with AVX-512: by 1e-6 at first, which the next rounding to bytes makes 1e-2. Up to 64 it
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
    """Tables that are looked up, and whose transpose has become a product's bytes, are looked up in these."""
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        table = node.input[0] if node.op_type == "Gather" else ""
        # Where the last block is not full, a row of bytes is longer than one of the table.
        if table not in transposes or tensors[table].dims[1] % BLOCK:
            nodes.append(node)
            continue
        rows, width = tensors[table].dims
        for part in ("zero_points", "scales"):
            tensors[f"{transposes[table]}_{part}"].dims[:] = rows, width // BLOCK
        nodes += _lookup(node, transposes[table], width)
    _replace_nodes(graph, nodes)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _lookup(node: onnx.NodeProto, matrix: str, width: int) -> list[onnx.NodeProto]:
    """What takes the place of `node`, a Gather of rows of `width` values for ids [B, N]: (byte - zero point) · scale.

    `matrix` is the quantiser's name for the bytes [rows, blocks, BLOCK], zero points and scales [rows, blocks].
    """
    ids, name = node.input[1], node.name

    def step(operator: str, result: str, *inputs: str) -> onnx.NodeProto:
        return helper.make_node(operator, inputs, [f"{name}/{result}"], f"{name}/{result}")

    def constant(result: str, *values: int) -> onnx.NodeProto:
        made = step("Constant", result)
        tensor = numpy_helper.from_array(np.array(values, np.int64))
        made.attribute.append(helper.make_attribute("value", tensor))
        return made

    def to_float(result: str, source: str) -> onnx.NodeProto:
        made = step("Cast", result, source)
        made.attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
        return made

    rows = step("Reshape", "rows", f"{name}/values", f"{name}/row_shape")
    rows.output[0] = node.output[0]
    return [
        constant("last_axis", -1),
        constant("row_shape", 0, 0, width),
        step("Gather", "bytes", f"{matrix}_Q{BITS}", ids),
        step("Gather", "zero_points", f"{matrix}_zero_points", ids),
        step("Gather", "scales", f"{matrix}_scales", ids),
        to_float("float_bytes", f"{name}/bytes"),
        to_float("float_zero_points", f"{name}/zero_points"),
        step("Unsqueeze", "zero_point_column", f"{name}/float_zero_points", f"{name}/last_axis"),
        step("Unsqueeze", "scale_column", f"{name}/scales", f"{name}/last_axis"),
        step("Sub", "differences", f"{name}/float_bytes", f"{name}/zero_point_column"),
        step("Mul", "values", f"{name}/differences", f"{name}/scale_column"),
        rows,
    ]


def _replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    del graph.node[:]
    graph.node.extend(nodes)
