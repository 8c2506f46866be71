"""The graphs that the server writes byte by byte are ONNX: its own checker says so, and reads what was meant."""

from __future__ import annotations

import onnx
import pytest

from florence2_sam2.server.generation import tiny_graphs


@pytest.mark.parametrize(
    "written", [tiny_graphs.move_rows(), tiny_graphs.zeros()], ids=["move_rows", "zeros"]
)
def test_the_checker_takes_them(written: bytes) -> None:
    model = onnx.load_model_from_string(written)
    onnx.checker.check_model(model, full_check=True)
    assert model.SerializeToString() == written
    assert [(row.domain, row.version) for row in model.opset_import] == [("", 18)]


def test_what_is_read_is_what_was_meant() -> None:
    graph = onnx.load_model_from_string(tiny_graphs.move_rows()).graph
    assert [(node.op_type, list(node.input), list(node.output)) for node in graph.node] == [
        ("Gather", ["source", "from"], ["rows"]),
        ("ScatterND", ["target", "to", "rows"], ["moved"]),
    ]
    axes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert axes == {
        "source": ["S", "D"],
        "from": ["M"],
        "target": ["T", "D"],
        "to": ["M", 1],
        "moved": ["T", "D"],
    }


def test_long_parts_have_their_lengths_in_several_bytes() -> None:
    name = "x" * 300
    written = tiny_graphs._model([tiny_graphs._node("Identity", [name], ["y"])], [], [])
    assert onnx.load_model_from_string(written).graph.node[0].input[0] == name
