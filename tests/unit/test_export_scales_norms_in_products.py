"""A layer norm whose scale and shift go into the products behind it gives the same, for any batch; others stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from onnx import TensorProto, helper, numpy_helper

from florence2_sam2.export.layer_norms import scale_in_products
from florence2_sam2.server.onnx_session import CPU, open_graph, open_session

WIDTH, OUT = 6, 4
ROWS = (3, 5)  # of one picture

Nodes = list[onnx.NodeProto]


def model(
    nodes: Nodes, rows: tuple[int | str, ...] = ROWS, outputs: tuple[str, ...] = ("y",), seed: int = 0
) -> onnx.ModelProto:
    """`nodes` with an input `x` [batch, *rows, WIDTH], a layer norm's `scale` and `shift`, and weights."""
    random = np.random.default_rng(seed)

    def drawn(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)

    initializers = [
        drawn("scale", WIDTH),
        drawn("shift", WIDTH),
        drawn("weights", WIDTH, OUT),
        drawn("others", WIDTH, OUT),
        drawn("bias", OUT),
        numpy_helper.from_array(np.array([-1, *ROWS[::-1], WIDTH]), "turned_shape"),
        numpy_helper.from_array(np.array([-1, ROWS[0] * ROWS[1], WIDTH]), "flat_shape"),
        numpy_helper.from_array(np.array([-1, ROWS[0] * ROWS[1] * 2, WIDTH // 2]), "halved_shape"),
    ]
    graph = helper.make_graph(
        nodes,
        "norms",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *rows, WIDTH])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def norm(**attributes: Any) -> onnx.NodeProto:
    return helper.make_node(
        "LayerNormalization", ["x", "scale", "shift"], ["n"], "norm", **{"epsilon": 1e-3, **attributes}
    )


def product(source: str, result: str, weights: str = "weights", bias: str = "bias") -> Nodes:
    return [
        helper.make_node("MatMul", [source, weights], [f"{result}_made"], f"{result}/MatMul"),
        helper.make_node("Add", [f"{result}_made", bias], [result], f"{result}/Add"),
    ]


def turned(source: str, result: str) -> Nodes:
    return [helper.make_node("Transpose", [source], [result], f"{result}/Transpose", perm=[0, 2, 1, 3])]


REWRITTEN: dict[str, Nodes] = {
    "a product": [norm(), *product("n", "y")],
    "the bias first": [
        norm(),
        helper.make_node("MatMul", ["n", "weights"], ["made"], "MatMul"),
        helper.make_node("Add", ["bias", "made"], ["y"], "Add"),
    ],
    "rows in another order": [
        norm(),
        *turned("n", "t"),
        helper.make_node("Reshape", ["t", "flat_shape"], ["f"], "flat"),
        *product("f", "y"),
    ],
    "two products, one weight": [
        norm(axis=3),
        *product("n", "a"),
        *turned("n", "t"),
        *product("t", "b"),
        *turned("b", "c"),
        helper.make_node("Mul", ["a", "c"], ["y"], "Mul"),
    ],
    "constants behind others": [
        helper.make_node("Identity", ["weights"], ["named"], "named"),
        helper.make_node("Cast", ["bias"], ["halves"], "halves", to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["halves"], ["row"], "row", to=TensorProto.FLOAT),
        norm(),
        *product("n", "y", "named", "row"),
    ],
}
KEPT: dict[str, Nodes] = {
    "something else is made of it": [
        norm(),
        *product("n", "a"),
        helper.make_node("ReduceSum", ["n"], ["s"], "sum"),
        helper.make_node("Add", ["a", "s"], ["y"], "Add"),
    ],
    "padded before the product": [
        helper.make_node("Constant", [], ["pads"], "pads", value_ints=[0, 0, 1, 0, 0, 0, 0, 0]),
        norm(),
        helper.make_node("Pad", ["n", "pads"], ["p"], "pad"),
        *product("p", "y"),
    ],
    "columns in another order": [
        norm(),
        helper.make_node("Reshape", ["n", "halved_shape"], ["h"], "halved"),
        helper.make_node("Reshape", ["h", "flat_shape"], ["f"], "flat"),
        *product("f", "y"),
    ],
    "no row is added": [norm(), helper.make_node("MatMul", ["n", "weights"], ["y"], "MatMul")],
    "what is added has many rows": [norm(), *product("n", "y", bias="x_part")],
}
KEPT["what is added has many rows"].insert(
    0, helper.make_node("Slice", ["x", "zero", "four", "last"], ["x_part"], "part")
)
KEPT["what is added has many rows"][:0] = [
    helper.make_node("Constant", [], [name], name, value_ints=[value])
    for name, value in (("zero", 0), ("four", OUT), ("last", 3))
]


def sizes(*rows: int) -> list[dict[str, tuple[int, ...]]]:
    return [{"x": (batch, *rows, WIDTH)} for batch in (1, 2, 3)]


def kinds(graph: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in graph.graph.node]


def run(graph: onnx.ModelProto, x: Any) -> list[Any]:
    results: list[Any] = open_graph(graph.SerializeToString()).run(None, {"x": x})
    return results


@pytest.mark.parametrize("name", REWRITTEN)
@settings(max_examples=20, deadline=None)
@given(batch=st.integers(1, 4), spread=st.floats(0.01, 100), mean=st.floats(-10, 10), seed=st.integers(0, 99))
def test_the_same_comes_out(name: str, batch: int, spread: float, mean: float, seed: int) -> None:
    before = model(REWRITTEN[name], seed=seed)
    after = onnx.ModelProto.FromString(before.SerializeToString())
    scale_in_products(after, sizes(*ROWS))
    assert "LayerNormalization" not in kinds(after)
    assert kinds(after).count("InstanceNormalization") == 1
    x = np.random.default_rng(seed).standard_normal((batch, *ROWS, WIDTH)) * spread + mean
    (expected,), (found,) = run(before, x.astype(np.float32)), run(after, x.astype(np.float32))
    # A layer norm's own error grows with the mean's square.
    tolerance = 1e-5 * (1 + (mean / spread) ** 2) * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", KEPT)
def test_others_stay_as_they_are(name: str) -> None:
    before = model(KEPT[name])
    after = onnx.ModelProto.FromString(before.SerializeToString())
    scale_in_products(after, sizes(*ROWS))
    assert after == before


def test_a_norm_that_is_an_output_stays() -> None:
    graph = model([norm(), *product("n", "y")], outputs=("y", "n"))
    scale_in_products(graph, sizes(*ROWS))
    assert "LayerNormalization" in kinds(graph)


def test_a_norm_of_rows_that_vary_stays() -> None:
    graph = model([norm(), *product("n", "y")], rows=("rows", 5))
    shapes = [{"x": (1, 3 + more, 5, WIDTH)} for more in range(3)]
    scale_in_products(graph, shapes)
    assert "LayerNormalization" in kinds(graph)


def test_the_constant_parts_cost_nothing_at_a_run(tmp_path: Path) -> None:
    graph = model(REWRITTEN["constants behind others"])
    scale_in_products(graph, sizes(*ROWS))
    path = tmp_path / "model.onnx"
    onnx.save(graph, path)
    session = open_session(path, [CPU], profile=tmp_path / "profile")
    session.run(None, {"x": np.zeros((1, *ROWS, WIDTH), np.float32)})
    told = Path(session.end_profiling()).read_text()
    assert "InstanceNormalization" in told
    assert all(f'"op_name" : "{kind}"' not in told for kind in ("Mul", "Expand", "Cast"))
    assert (
        told.count('"op_name" : "MatMul"') + told.count('"op_name" : "Gemm"') + told.count("FusedMatMul") >= 1
    )
