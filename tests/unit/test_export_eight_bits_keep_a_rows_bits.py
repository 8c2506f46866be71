"""8-bit weights: what is near what it was, what stays as it was, and rows that do not see each other."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from florence2_sam2.export.eight_bits import BLOCK, to_eight_bits
from florence2_sam2.export.shrink import share_equal_initializers

Floats = NDArray[np.float32]

RANDOM = np.random.default_rng(0)


def drawn(*shape: int) -> Floats:
    return RANDOM.normal(0, 0.1, shape).astype(np.float32)


X, Y = {"x": 2}, {"y": 2}


def model(
    nodes: list[onnx.NodeProto], inputs: dict[str, int] = X, outputs: dict[str, int] = Y, **weights: Floats
) -> onnx.ModelProto:
    """Inputs and outputs, all FP32, are name → rank."""
    ends = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"{name}{n}" for n in range(rank)])
        for name, rank in (inputs | outputs).items()
    }
    graph = helper.make_graph(
        nodes,
        "test",
        [ends[name] for name in inputs],
        [ends[name] for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(onnx_model: onnx.ModelProto, threads: int = 1, **inputs: np.ndarray) -> list[Floats]:
    onnx.checker.check_model(onnx_model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        onnx_model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, inputs)


def operators(onnx_model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in onnx_model.graph.node]


def tensors(onnx_model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx_model.graph.initializer}


def error(found: Floats, right: Floats) -> float:
    """Root mean square, as a share of the right values' spread."""
    return float(np.sqrt(np.mean((found - right) ** 2)) / right.std())


@pytest.mark.parametrize(
    ("node", "weight", "bias"),
    [
        (helper.make_node("MatMul", ["x", "w"], ["y"], "m"), drawn(64, 48), None),
        # a last block that is not full
        (helper.make_node("MatMul", ["x", "w"], ["y"], "m"), drawn(72, 48), None),
        (helper.make_node("Gemm", ["x", "w"], ["y"], "m"), drawn(64, 48), None),
        (helper.make_node("Gemm", ["x", "w"], ["y"], "m", transB=1), drawn(48, 64), None),
        (helper.make_node("Gemm", ["x", "w", "b"], ["y"], "m", transB=1), drawn(48, 64), drawn(48)),
    ],
)
def test_a_product_is_near_and_takes_a_byte_for_a_weight(
    node: onnx.NodeProto, weight: Floats, bias: Floats | None
) -> None:
    def made() -> onnx.ModelProto:
        return model([node], w=weight, **({} if bias is None else {"b": bias}))

    x = drawn(5, weight.shape[1] if node.attribute else weight.shape[0])
    after = to_eight_bits(made())
    assert operators(after) == ["MatMulNBits"] + ["Add"] * (bias is not None)
    settings = {s.name: helper.get_attribute_value(s) for s in after.graph.node[0].attribute}
    assert (settings["bits"], settings["block_size"], settings["accuracy_level"]) == (8, BLOCK, 4)
    assert sum(values.nbytes for values in tensors(after).values()) < 0.4 * weight.nbytes
    assert 1e-3 < error(run(after, x=x)[0], run(made(), x=x)[0]) < 0.015


def test_other_gemms_stay_as_they_are() -> None:
    for settings in ({"alpha": 0.5}, {"transA": 1}):
        nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], "m", **settings)]
        assert operators(to_eight_bits(model(nodes, w=drawn(64, 48)))) == ["Gemm"]


def test_one_matrix_in_two_products_is_stored_once() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["once"], "first"),
        helper.make_node("MatMul", ["once", "w"], ["y"], "second"),
    ]
    before = model(nodes, w=drawn(64, 64))
    x = drawn(3, 64)
    right = run(before, x=x)[0]
    after = to_eight_bits(before)
    share_equal_initializers(after)
    assert len(after.graph.initializer) == 3
    assert error(run(after, x=x)[0], right) < 0.02


@pytest.mark.parametrize(("width", "outputs"), [(64, 40), (72, 33), (128, 1738), (768, 257)])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_has_the_same_bits_alone_and_beside_others(width: int, outputs: int, threads: int) -> None:
    """Which larger blocks do not keep: with 128 some kernels sum rows in another order than a single one."""
    quantised = to_eight_bits(
        model([helper.make_node("MatMul", ["x", "w"], ["y"], "m")], w=drawn(width, outputs))
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        quantised.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    x = drawn(24, width)
    x[::5] *= 100  # a scale for all rows would show
    alone = np.concatenate([session.run(None, {"x": x[row : row + 1]})[0] for row in range(24)])
    for rows in range(2, 25):
        np.testing.assert_array_equal(session.run(None, {"x": x[:rows]})[0], alone[:rows], f"{rows} rows")


def test_the_quantiser_leaves_pythons_logging_alone() -> None:
    """Imported as it is, it would send every library's notes to the terminal of `export`."""
    script = (
        "import logging; from florence2_sam2.export.eight_bits import _onnxruntimes_tool as tool; tool();"
        "logging.getLogger('anything').info('a note'); print(logging.getLogger().handlers)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert done.stderr == ""
