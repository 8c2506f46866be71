"""Operations and bytes of graphs, as the roofline counts them, against counts by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from bench.speed.work import CannotCount, Work, count, flops_of, weight_bytes  # noqa: E402


def model(nodes: list, inputs: dict, outputs: dict, weights: dict) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def saved(tmp_path: Path, built: onnx.ModelProto) -> Path:
    onnx.checker.check_model(built)
    onnx.save(built, tmp_path / "tiny.onnx")
    return tmp_path / "tiny.onnx"


def test_a_tiny_graph_is_counted_as_by_hand(tmp_path: Path) -> None:
    """Tokens from a table, a product with weights that are stored in float16, an addition, a Gemm."""
    built = model(
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"]),  # [2, 3, 8]
            helper.make_node("Cast", ["half"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["rows", "wide"], ["product"]),  # [2, 3, 5]
            helper.make_node("Add", ["product", "bias"], ["sum"]),
            helper.make_node("Reshape", ["sum", "shape"], ["flat"]),  # [6, 5]
            helper.make_node("Gemm", ["flat", "last"], ["out"], transB=1),  # [6, 7]
        ],
        {"ids": (TensorProto.INT64, [2, 3])},
        {"out": (TensorProto.FLOAT, [6, 7])},
        {
            "table": np.ones((100, 8), np.float32),
            "half": np.ones((8, 5), np.float16),
            "bias": np.ones(5, np.float32),
            "shape": np.array([6, 5], np.int64),
            "last": np.ones((7, 5), np.float32),
        },
    )
    work = count(saved(tmp_path, built), {"ids": np.zeros((2, 3), np.int64)})
    assert work.flops_by_kind == {"MatMul": 2 * (2 * 3 * 5) * 8, "Gemm": 2 * (6 * 7) * 5}
    assert work.flops == 480 + 420
    weights = (
        4 * 8 * 5 + 4 * 5 + 8 * 2 + 4 * 7 * 5
    )  # the table is only gathered from, half is float32 when it runs
    assert work.bytes == weights + 8 * 6 + 4 * 42


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_are_counted_as_by_hand(tmp_path: Path, groups: int) -> None:
    built = model(
        [
            helper.make_node(
                "Conv",
                ["x", "w"],
                ["y"],
                group=groups,
                kernel_shape=[3, 3],
                pads=[1, 1, 1, 1],
                strides=[2, 2],
            ),
            helper.make_node("ConvTranspose", ["y", "v"], ["z"], kernel_shape=[2, 2], strides=[2, 2]),
        ],
        {"x": (TensorProto.FLOAT, ["batch", 4, 10, 10])},
        {"z": (TensorProto.FLOAT, ["batch", 3, 10, 10])},
        {
            "w": np.ones((6, 4 // groups, 3, 3), np.float32),
            "v": np.ones((6, 3, 2, 2), np.float32),
        },
    )
    work = count(saved(tmp_path, built), {"x": np.ones((2, 4, 10, 10), np.float32)})
    assert work.flops_by_kind == {
        "Conv": 2 * (2 * 6 * 5 * 5) * (4 // groups * 9),
        "ConvTranspose": 2 * (2 * 6 * 5 * 5) * (3 * 4),
    }


@pytest.mark.parametrize(
    ("kind", "inputs", "outputs", "flops"),
    [
        ("MatMul", [[2, 4, 9, 16], [2, 4, 16, 7]], [[2, 4, 9, 7]], 2 * 8 * 9 * 7 * 16),
        ("MatMul", [[16], [16, 7]], [[7]], 2 * 7 * 16),
        ("MatMulNBits", [[1, 1, 768], [3072, 24, 32], [3072, 24]], [[1, 1, 3072]], 2 * 768 * 3072),
        ("Gemm", [[3, 6], [3, 7]], [[6, 7]], 2 * 6 * 7 * 3),  # the first side transposed
        ("MultiHeadAttention", [[1, 10, 64], [1, 20, 64], [1, 20, 64]], [[1, 10, 64]], 4 * 10 * 20 * 64),
        ("MultiHeadAttention", [[1, 1, 64], [1, 4, 20, 16], [1, 4, 20, 16]], [[1, 1, 64]], 4 * 20 * 64),
        ("Softmax", [[8, 8]], [[8, 8]], 0),
    ],
)
def test_kinds_of_nodes(kind: str, inputs: list, outputs: list, flops: float) -> None:
    assert flops_of(kind, inputs, outputs) == flops


def test_a_kind_that_is_not_known_is_refused_by_name() -> None:
    with pytest.raises(CannotCount, match="Einsum"):
        flops_of("Einsum", [[2, 2], [2, 2]], [[2, 2]])


def test_weights_in_constants_and_transposed_ones_count_once_each() -> None:
    built = model(
        [
            helper.make_node(
                "Constant", [], ["c"], value=numpy_helper.from_array(np.ones((4, 4), np.float32))
            ),
            helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
            helper.make_node("MatMul", ["x", "t"], ["a"]),
            helper.make_node("MatMul", ["a", "w"], ["b"]),  # the same weights again
            helper.make_node("Add", ["b", "c"], ["y"]),
        ],
        {"x": (TensorProto.FLOAT, [4, 4])},
        {"y": (TensorProto.FLOAT, [4, 4])},
        {"w": np.ones((4, 4), np.float32), "unused": np.ones(1000, np.float32)},
    )
    assert weight_bytes(built) == 4 * 16 + 4 * 16


def test_the_limit_is_whichever_stands_in_the_way() -> None:
    assert Work(1e9, 1e6, {}).limit_seconds(1e9, 1e9) == 1.0
    assert Work(1e6, 1e9, {}).limit_seconds(1e9, 1e9) == 1.0
