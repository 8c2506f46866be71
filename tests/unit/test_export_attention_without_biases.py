"""Attention without the biases of its keys and values gives the same; where that cannot be told, they stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from onnx import TensorProto, helper, numpy_helper

from florence2_sam2.export.attention_biases import move_biases
from florence2_sam2.server.onnx_session import open_graph

HEADS, HEAD, ROWS, OUT = 2, 3, 5, 4
WIDTH = HEADS * HEAD

Nodes = list[onnx.NodeProto]


def projected(name: str, *moves: onnx.NodeProto) -> Nodes:
    """`name`_heads: x · W + b, by heads and back as exporters write it, after `moves` from `name` to `name`_moved."""
    moved = moves[-1].output[0] if moves else name
    return [
        helper.make_node("MatMul", ["x", f"w_{name}"], [f"{name}_product"], f"{name}/MatMul"),
        helper.make_node("Add", [f"b_{name}", f"{name}_product"], [name], f"{name}/Add"),
        *moves,
        helper.make_node("Reshape", [moved, "by_heads"], [f"{name}_split"], f"{name}/Reshape"),
        helper.make_node("Transpose", [f"{name}_split"], [f"{name}_first"], f"{name}/T", perm=[0, 2, 1, 3]),
        helper.make_node("Transpose", [f"{name}_first"], [f"{name}_last"], f"{name}/T_1", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", [f"{name}_last", "joined"], [f"{name}_heads"], f"{name}/Reshape_1"),
    ]


def attention() -> Nodes:
    heads = [f"{name}_heads" for name in "qkv"]
    return [
        helper.make_node(
            "MultiHeadAttention", heads, ["a"], "attention", domain="com.microsoft", num_heads=HEADS
        )
    ]


def product(source: str = "a") -> Nodes:
    return [
        helper.make_node("MatMul", [source, "w_o"], ["o"], "o/MatMul"),
        helper.make_node("Add", ["o", "b_o"], ["y"], "o/Add"),
    ]


def model(nodes: Nodes, seed: int = 0) -> onnx.ModelProto:
    random = np.random.default_rng(seed)

    def drawn(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)

    initializers = [drawn(f"w_{name}", WIDTH, WIDTH) for name in "qkv"] + [drawn("w_o", WIDTH, OUT)]
    initializers += [drawn(f"b_{name}", WIDTH) for name in "qkv"] + [drawn("b_o", OUT)]
    initializers += [
        numpy_helper.from_array(np.array(shape), name)
        for name, shape in [
            ("by_heads", [0, 0, HEADS, HEAD]),
            ("joined", [0, 0, -1]),
            ("wide", [-1, WIDTH, ROWS]),
            ("rows", [-1, ROWS, WIDTH]),
        ]
    ]
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", ROWS, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        initializers,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def moved(before: onnx.ModelProto) -> onnx.ModelProto:
    after = onnx.ModelProto.FromString(before.SerializeToString())
    move_biases(after, {"x": (2, ROWS, WIDTH)})
    return after


def sums(graph: onnx.ModelProto) -> set[str]:
    """Of which projections a bias is still added to each row."""
    return {node.name[0] for node in graph.graph.node if node.name in ("q/Add", "k/Add", "v/Add")}


def same(one: onnx.ModelProto, other: onnx.ModelProto, batch: int = 2, seed: int = 0) -> None:
    x = np.random.default_rng(seed).standard_normal((batch, ROWS, WIDTH)).astype(np.float32)
    (expected,), (found,) = (
        open_graph(graph.SerializeToString()).run(None, {"x": x}) for graph in (one, other)
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(1, 3), seed=st.integers(0, 999))
def test_the_same_comes_out(batch: int, seed: int) -> None:
    before = model([*projected("q"), *projected("k"), *projected("v"), *attention(), *product()], seed)
    after = moved(before)
    assert sums(after) == {"q"}
    same(before, after, batch, seed)


def test_rows_may_move_on_both_sides() -> None:
    turn = [
        helper.make_node("Reshape", ["k", "rows"], ["k_rows"], "k/rows"),
        helper.make_node("Reshape", ["a", "rows"], ["a_rows"], "a/rows"),
    ]
    nodes = [*projected("q"), *projected("k", turn[0]), *projected("v"), *attention(), turn[1]]
    before = model([*nodes, *product("a_rows")])
    after = moved(before)
    assert sums(after) == {"q"}
    same(before, after)


def test_a_key_whose_columns_are_mixed_keeps_its_bias() -> None:
    mixing = [
        helper.make_node("Reshape", ["k", "wide"], ["k_wide"], "k/wide"),
        helper.make_node("Transpose", ["k_wide"], ["k_turned"], "k/turned", perm=[0, 2, 1]),
    ]
    before = model([*projected("q"), *projected("k", *mixing), *projected("v"), *attention(), *product()])
    after = moved(before)
    assert sums(after) == {"q", "k"}
    same(before, after)


def test_a_key_that_something_else_takes_keeps_its_bias() -> None:
    nodes = [*projected("q"), *projected("k"), *projected("v"), *attention(), *product()]
    nodes[-1].output[0] = "half"
    nodes += [
        helper.make_node("ReduceSum", ["k"], ["total"], "total"),
        helper.make_node("Add", ["half", "total"], ["y"], "whole"),
    ]
    before = model(nodes)
    after = moved(before)
    assert sums(after) == {"q", "k"}
    same(before, after)


@pytest.mark.parametrize("behind", ["something else", "no sum"])
def test_a_value_stays_without_a_product_and_a_sum_behind(behind: str) -> None:
    nodes = [*projected("q"), *projected("k"), *projected("v"), *attention()]
    if behind == "no sum":
        nodes.append(helper.make_node("MatMul", ["a", "w_o"], ["y"], "o/MatMul"))
    else:
        nodes += [helper.make_node("Relu", ["a"], ["positive"], "relu"), *product("positive")]
    before = model(nodes)
    after = moved(before)
    assert sums(after) == {"q", "v"}
    same(before, after)


def test_nothing_else_is_touched() -> None:
    before = model([*projected("v"), *product("v_heads")])
    assert list(moved(before).graph.node) == list(before.graph.node)
