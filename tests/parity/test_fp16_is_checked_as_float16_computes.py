"""A CPU runs float16 graphs in float32: what is checked instead rounds and overflows as float16 does, node by node."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from florence2_sam2.export import graphs
from florence2_sam2.export.checks import Case, check_graph
from florence2_sam2.export.precision import FLOAT16_SAFE, largest_magnitudes, nodes_beyond_float16
from florence2_sam2.export.rounding import emulated

pytestmark = pytest.mark.parity

LARGEST = 65504.0  # float16's


def float16_model(operator: str) -> onnx.ModelProto:
    """y = a operator b in float16, behind float32 inputs and outputs, [n] each."""
    nodes = [
        helper.make_node("Cast", ["a"], ["half_a"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["b"], ["half_b"], to=TensorProto.FLOAT16),
        helper.make_node(operator, ["half_a", "half_b"], ["half_y"]),
        helper.make_node("Cast", ["half_y"], ["y"], to=TensorProto.FLOAT),
    ]
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "aby"}
    graph = helper.make_graph(nodes, "half", [values["a"], values["b"]], [values["y"]])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model: onnx.ModelProto, *arrays: NDArray[np.float32]) -> NDArray[np.float32]:
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {node.name: array for node, array in zip(session.get_inputs(), arrays, strict=True)}
    result: NDArray[np.float32] = session.run(None, feeds)[0]
    return result


# Normal numbers of float16: below 6e-5 it keeps fewer digits than the emulation.
numbers = st.floats(1 / 128, 300, width=32) | st.floats(-300, -1 / 128, width=32)


@settings(max_examples=60)
@given(st.sampled_from(["Add", "Sub", "Mul", "Div"]), st.lists(st.tuples(numbers, numbers), min_size=1))
@example("Mul", [(255.9, 255.9), (256.0, 256.0), (300.0, -300.0)])
def test_each_operation_gives_float16s_result(operator: str, pairs: list[tuple[float, float]]) -> None:
    a, b = np.array(pairs, np.float32).T
    kinds = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
    with np.errstate(over="ignore"):
        right = kinds[operator](a.astype(np.float16), b.astype(np.float16)).astype(np.float32)
    found = run(emulated(float16_model(operator)), a, b)
    tiny = np.abs(right) < 6.2e-5
    np.testing.assert_array_equal(found[~tiny], np.where(np.isfinite(right), right, np.nan)[~tiny])


def test_the_cpu_itself_shows_neither_rounding_nor_overflow() -> None:
    """The reason for all this. Should it fail with another onnxruntime, that one computes in float16."""
    a, b = np.array([100.1, 300.0], np.float32), np.array([1.0, 300.0], np.float32)
    np.testing.assert_array_equal(run(float16_model("Mul"), a, b), a * b)


class Growing(torch.nn.Module):
    """A residual stream that grows beyond float16 and is normalised at the end, as in deep vision transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(32, 32)
        self.up = torch.nn.Linear(32, 32)
        self.norm = torch.nn.LayerNorm(32)
        with torch.no_grad():
            self.up.weight.mul_(2e5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.linear(x)
        return self.norm(x + self.up(x))


def growing() -> graphs.Graph:
    torch.manual_seed(0)
    tensors = (graphs.Tensor("x", ("batch", 32)),), (graphs.Tensor("y", ("batch", 32)),)
    return graphs.Graph("m/1/model.onnx", Growing(), *tensors, (torch.randn(2, 32),))


def cases(graph: graphs.Graph) -> list[Case]:
    with torch.no_grad():
        inputs = [torch.randn(batch, 32) for batch in (1, 3)]
        return [Case("", {"x": x.numpy()}, {"y": graph.module(x).numpy()}) for x in inputs]


def test_values_beyond_float16_stay_float32(tmp_path: Path) -> None:
    graph = growing()
    right = cases(graph)
    path = tmp_path / "model.onnx"
    graphs.write_graph(graph, path, 18, "fp16", samples=[case.inputs for case in right])
    with graphs.computed(path, "fp16") as file:
        assert all(row.passed for row in check_graph(graph, file, right, "fp16"))
    weights = {tensor.name: tensor.data_type for tensor in onnx.load(path).graph.initializer}
    assert weights["up.bias"] == TensorProto.FLOAT
    assert weights["linear.bias"] == TensorProto.FLOAT16


def test_the_check_sees_an_overflow(tmp_path: Path) -> None:
    """Without measured samples nothing is kept in float32: the served file looks right on a CPU, and is not."""
    graph = growing()
    right = cases(graph)
    path = tmp_path / "model.onnx"
    graphs.write_graph(graph, path, 18, "fp16")
    assert all(row.passed for row in check_graph(graph, path, right, "fp16"))
    with graphs.computed(path, "fp16") as file:
        assert not all(row.passed for row in check_graph(graph, file, right, "fp16"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_magnitudes_are_measured_for_each_tensor(tmp_path: Path) -> None:
    graph = growing()
    path = tmp_path / "model.onnx"
    graphs.write_graph(graph, path, 18, "fp32")
    model = onnx.load(path)
    samples = [case.inputs for case in cases(graph)]
    found = largest_magnitudes(model, samples, tmp_path)
    with torch.no_grad():
        outputs = [graph.module(torch.from_numpy(sample["x"])) for sample in samples]
    assert found["y"] == pytest.approx(max(float(output.abs().max()) for output in outputs), rel=1e-5)
    assert max(found.values()) > LARGEST
    kept = nodes_beyond_float16(model, samples, tmp_path)
    assert 0 < len(kept) < len(model.graph.node)
    large = {name for name, value in found.items() if value > FLOAT16_SAFE}
    for node in model.graph.node:
        assert (node.name in kept) == bool(large & {*node.input, *node.output})
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
