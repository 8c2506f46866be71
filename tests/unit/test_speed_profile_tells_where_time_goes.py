"""`scripts/profile`: stages of answers, and nodes of a graph as onnxruntime has run them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from bench.speed.components import Node, profiled  # noqa: E402
from bench.speed.profile import inside_florence2, kinds, main, slowest, stages  # noqa: E402


def test_the_nodes_of_a_graph_are_timed(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["product"], name="the product"),
            helper.make_node("Softmax", ["product"], ["y"], name="the softmax"),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, 64])],
        [numpy_helper.from_array(np.ones((64, 64), np.float32), "w")],
    )
    path = tmp_path / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    nodes = profiled(path, {"x": np.ones((64, 64), np.float32)}, repeats=3)
    assert [(node.name, node.kind) for node in nodes] == [
        ("the product", "MatMul"),
        ("the softmax", "Softmax"),
    ]
    assert all(0 <= node.seconds < 1 for node in nodes)
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.onnx"], "a profile was left behind"


NODES = [Node("a", "MatMul", 0.003), Node("b", "Add", 0.001), Node("c", "MatMul", 0.004)]


def test_kinds_of_nodes_are_added_up_longest_first() -> None:
    lines = kinds(NODES, 0.0075).splitlines()
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:-1]] == [
        ["MatMul", "2", "7.00", "87.5%"],
        ["Add", "1", "1.00", "12.5%"],
        ["all nodes", "3", "8.00", "100.0%"],
    ]
    assert "7.50 ms" in lines[-1]


def test_the_slowest_nodes_are_named() -> None:
    lines = slowest(NODES, 2).splitlines()
    assert len(lines) == 4
    assert "c" in lines[2]
    assert "4.000" in lines[2]
    assert "3.000" in lines[3]


def test_stages_are_medians_and_what_is_outside_is_told() -> None:
    answers = [
        (seconds, SimpleNamespace(timings_ms={"caption": caption, "masks": 10.0}))
        for seconds, caption in ((0.1, 80.0), (0.2, 160.0), (0.3, 240.0))
    ]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in stages(answers).splitlines()[2:]]
    assert rows == [
        ["caption", "160.0", "120.0 to 200.0", "80.0%"],
        ["masks", "10.0", "10.0 to 10.0", "5.0%"],
        ["outside: gRPC, Triton, JSON, the client", "30.0", "20.0 to 40.0", "15.0%"],
        ["seen by the client", "200.0", "150.0 to 250.0", "100.0%"],
    ]


def test_a_caption_is_told_step_by_step() -> None:
    info = {"timings_ms": {"waiting": 1.0, "encoding": 20.0, "decoding": 50.0}, "steps": 25}
    assert "25 steps 50.0 ms, 2.00 ms a step" in inside_florence2(info)


@pytest.mark.parametrize(
    "wrong", [["--graph", "tokenizer"], ["--requests", "0"], ["--full", "a", "--model-repository", "b"]]
)
def test_wrong_arguments_are_named(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(wrong)
    assert ended.value.code == 2
    assert wrong[0] in capsys.readouterr().err
