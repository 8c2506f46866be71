"""Weights stored in float16 are those that float16 holds exactly, and the graph computes the same bits."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from florence2_sam2.export.halves import store_exact_halves


def model_with(weights: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "one product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", weights.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", weights.shape[1]])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def stored_type(model: onnx.ModelProto) -> int:
    (tensor,) = model.graph.initializer
    return tensor.data_type


def product(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.fixture
def weights() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, (64, 48)).astype(np.float16).astype(np.float32)


def test_exact_weights_halve_the_file_and_give_the_same_bits(weights: np.ndarray, tmp_path: Path) -> None:
    before, after = model_with(weights), model_with(weights)
    store_exact_halves(after)
    onnx.checker.check_model(after, full_check=True)
    assert stored_type(after) == TensorProto.FLOAT16
    assert after.ByteSize() < 0.55 * before.ByteSize()
    x = np.random.default_rng(1).normal(size=(5, 64)).astype(np.float32)
    np.testing.assert_array_equal(product(before, x), product(after, x))


def model_with_table(weights: np.ndarray, tied: bool) -> onnx.ModelProto:
    """Rows of the table, and with `tied` their products with all of its rows as well, as of an embedding and a head."""
    nodes = [helper.make_node("Gather", ["w", "ids"], ["rows"], "look up")]
    nodes += [helper.make_node("Gemm", ["rows", "w"], ["y"], "head", transB=1)] if tied else []
    result, width = ("y", weights.shape[0]) if tied else ("rows", weights.shape[1])
    graph = helper.make_graph(
        nodes,
        "an embedding",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N"])],
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, ["N", width])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("tied", [False, True])
def test_only_the_rows_of_a_table_are_cast(weights: np.ndarray, tied: bool) -> None:
    before, after = model_with_table(weights, tied), model_with_table(weights, tied)
    store_exact_halves(after)
    onnx.checker.check_model(after, full_check=True)
    gather = next(node for node in after.graph.node if node.op_type == "Gather")
    assert gather.input[0] == after.graph.initializer[0].name
    assert stored_type(after) == TensorProto.FLOAT16
    constants = [n for n in after.graph.node if n.op_type == "Cast" and n.input[0] == gather.input[0]]
    assert len(constants) == tied  # the product's matrix is another matter
    ids = np.array([3, 0, 63, 3])
    sessions = [
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        for model in (before, after)
    ]
    one, other = (session.run(None, {"ids": ids})[0] for session in sessions)
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("value", [1.0 + 2.0**-12, 70000.0, 1e-9])
def test_one_value_that_float16_cannot_hold_keeps_the_tensor(weights: np.ndarray, value: float) -> None:
    weights[3, 7] = value
    model = model_with(weights)
    store_exact_halves(model)
    assert stored_type(model) == TensorProto.FLOAT
    assert [node.op_type for node in model.graph.node] == ["MatMul"]


def test_small_tensors_stay_readable() -> None:
    model = model_with(np.ones((4, 4), np.float32))
    store_exact_halves(model)
    assert stored_type(model) == TensorProto.FLOAT


def test_a_weight_that_a_caller_may_replace_stays(weights: np.ndarray) -> None:
    model = model_with(weights)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, list(weights.shape)))
    store_exact_halves(model)
    assert stored_type(model) == TensorProto.FLOAT


@settings(max_examples=30)
@given(st.lists(st.floats(width=16, allow_nan=False), min_size=1, max_size=50))
def test_any_float16_comes_back_bit_for_bit(values: list[float]) -> None:
    weights = np.resize(np.array(values, np.float32), (64, 48))
    model = model_with(weights)
    store_exact_halves(model)
    (tensor,) = model.graph.initializer
    restored = numpy_helper.to_array(tensor).astype(np.float32)
    assert tensor.data_type == TensorProto.FLOAT16
    np.testing.assert_array_equal(restored.view(np.uint32), weights.view(np.uint32))
