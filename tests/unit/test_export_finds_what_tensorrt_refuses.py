"""Nodes that TensorRT's parser does not take are found in the graph, with the reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from florence2_sam2.export.tensorrt_operators import OPSETS, refused

FLOAT, INT64, BOOL, DOUBLE = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.DOUBLE


def graph(
    operator: str,
    inputs: dict[str, int],
    *,
    outputs: int = 1,
    opset: int = 18,
    constants: dict[str, Any] | None = None,
    domain: str = "",
    **attributes: Any,
) -> onnx.ModelProto:
    """A graph of one node. `inputs`: types by name; those of `constants` are in the file."""
    names = [*inputs, *(constants or {})]
    node = helper.make_node(
        operator, names, [f"y{n}" for n in range(outputs)], "node", domain=domain, **attributes
    )
    return helper.make_model(
        helper.make_graph(
            [node],
            "one node",
            [helper.make_tensor_value_info(name, kind, ["A", 2, 3, 4]) for name, kind in inputs.items()],
            [helper.make_tensor_value_info(f"y{n}", TensorProto.UNDEFINED, None) for n in range(outputs)],
            [numpy_helper.from_array(np.array(value), name) for name, value in (constants or {}).items()],
        ),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)],
        ir_version=9,
    )


@pytest.mark.parametrize(
    "model",
    [
        graph("MatMul", {"a": FLOAT, "b": FLOAT}),
        graph("Gather", {"a": BOOL, "i": INT64}),
        graph("Where", {"c": BOOL, "a": FLOAT, "b": FLOAT}),
        graph("ReduceSum", {"a": FLOAT}, constants={"axes": [1]}),
        graph("Cast", {"a": TensorProto.UINT8}, to=FLOAT),
        graph("ScatterND", {"a": FLOAT, "i": INT64, "u": FLOAT}),
        graph(
            "Resize",
            {"a": FLOAT},
            constants={"r": np.zeros(0, np.float32), "s": [1.0, 1, 2, 2]},
            mode="linear",
        ),
    ],
    ids=lambda model: model.graph.node[0].op_type,
)
def test_what_it_takes_is_not_refused(model: onnx.ModelProto) -> None:
    assert refused(model) == []


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (
            graph("MultiHeadAttention", {"q": FLOAT}, domain="com.microsoft", num_heads=2),
            "com.microsoft are unknown",
        ),
        (graph("Unique", {"a": FLOAT}), "not among the operators"),
        (graph("MatMul", {"a": DOUBLE, "b": DOUBLE}), "does not take DOUBLE"),
        (graph("Softmax", {"a": INT64}), "does not take INT64"),
        (graph("Where", {"c": BOOL, "a": DOUBLE, "b": DOUBLE}), "does not take DOUBLE"),
        (graph("ReduceSum", {"a": FLOAT, "axes": INT64}), "axes must be in the file"),
        (graph("CumSum", {"a": FLOAT, "axis": INT64}), "axis must be in the file"),
        (graph("LayerNormalization", {"a": FLOAT, "s": FLOAT}, outputs=2), "only its first output"),
        (graph("MaxPool", {"a": FLOAT}, outputs=2, kernel_shape=[2, 2]), "its indices"),
        (graph("MaxPool", {"a": FLOAT}, kernel_shape=[2, 2], dilations=[1, 2]), "dilations"),
        (graph("Resize", {"a": FLOAT}, mode="cubic"), "mode cubic"),
        (graph("Resize", {"a": FLOAT}, mode="linear", antialias=1), "antialiasing"),
        (
            graph("Resize", {"a": FLOAT}, coordinate_transformation_mode="tf_crop_and_resize"),
            "tf_crop_and_resize are not supported",
        ),
        (graph("ScatterND", {"a": FLOAT, "i": INT64, "u": FLOAT}, reduction="add"), "reduction add"),
        (graph("TopK", {"a": FLOAT, "k": INT64}, outputs=2, sorted=0), "sorted must be 1"),
    ],
    ids=lambda value: value.graph.node[0].op_type if isinstance(value, onnx.ModelProto) else "",
)
def test_what_it_does_not_take_is_said(model: onnx.ModelProto, why: str) -> None:
    (found,) = refused(model)
    assert (found.node, found.operator) == ("node", model.graph.node[0].op_type)
    assert why in found.why
    assert why in str(found)


@pytest.mark.parametrize("opset", [OPSETS.start - 1, OPSETS.stop])
def test_an_operator_set_beyond_its_own_is_said(opset: int) -> None:
    (found,) = refused(graph("Relu", {"a": FLOAT}, opset=opset))
    assert str(found) == f"opset {opset}: TensorRT 10.15 takes 9 to 24"


def test_every_node_is_looked_at() -> None:
    model = graph("Unique", {"a": FLOAT})
    model.graph.node.extend([helper.make_node("Det", ["a"], ["d"], "other")])
    assert [found.node for found in refused(model)] == ["node", "other"]
