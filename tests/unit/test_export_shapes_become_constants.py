"""What a graph computes about shapes, if always the same, becomes a constant; results stay to the bit, for any size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from florence2_sam2.export.channels_last import add_channels_last  # noqa: E402
from florence2_sam2.export.constant_shapes import fix_shapes, probes, prune  # noqa: E402
from florence2_sam2.export.measured_shapes import measure  # noqa: E402
from florence2_sam2.server.onnx_session import CPU, open_session  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:You are using the legacy")

Module = Callable[..., Any]


class Windows(nn.Module):
    """Windows of a picture of 8 · 12, as the vision towers cut them: padding and slices by sizes that are computed."""

    def forward(self, x: Any) -> Any:
        batch, height, width, channels = x.shape
        x = nn.functional.pad(x, (0, 0, 0, (4 - width % 4) % 4, 0, (4 - height % 4) % 4))
        high, wide = x.shape[1:3]
        x = x.view(batch, high // 4, 4, wide // 4, 4, channels).permute(0, 1, 3, 2, 4, 5)
        x = x.reshape(-1, 16, channels).cumsum(1).view(batch, high // 4, wide // 4, 4, 4, channels)
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(batch, high, wide, channels)
        return x[:, :height, :width].contiguous() * height**-0.5


class Heads(nn.Module):
    """Two axes vary."""

    def forward(self, x: Any) -> Any:
        return x.unflatten(-1, (2, 3)).transpose(1, 2).flatten(2).softmax(-1)


class Beginning(nn.Module):
    """A slice that is everything of a short input and not of a long one."""

    def forward(self, x: Any) -> Any:
        return x[:, :8] + 1


class Crossed(nn.Module):
    """Three axes vary, and swap places: no constant can say so."""

    def forward(self, x: Any) -> Any:
        return x.permute(2, 0, 1).reshape(x.shape[2], x.shape[1], x.shape[0], 1) * 2


class Positioned(nn.Module):
    """DaViT's positions: rows plus what a convolution makes of them as a picture of 6 · 10."""

    def __init__(self, rows_first: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.rows_first = rows_first

    def forward(self, rows: Any) -> Any:
        image = rows.transpose(1, 2).reshape(rows.shape[0], 16, 6, 10)
        made = self.convolution(image)
        both = image + made if self.rows_first else made + image
        return both.flatten(2).transpose(1, 2) * 3


def exported(module: nn.Module, example: Any, axes: dict[int, str], folder: Path) -> onnx.ModelProto:
    file = folder / "model.onnx"
    torch.onnx.export(
        module.eval(), (example,), str(file), dynamo=False, opset_version=18, input_names=["x"],
        output_names=["y"], dynamic_axes={"x": axes},
    )  # fmt: skip
    return onnx.load(file)


def fixed(model: onnx.ModelProto, example: Any, axes: dict[int, str], folder: Path) -> onnx.ModelProto:
    sides: list[int | str] = [axes.get(index, side) for index, side in enumerate(example.shape)]
    after = onnx.ModelProto.FromString(model.SerializeToString())
    fix_shapes(after, probes({"x": (sides, tuple(example.shape))}))
    onnx.checker.check_model(after, full_check=True)
    return after


def run(model: onnx.ModelProto, x: Any, folder: Path) -> Any:
    file = folder / "run.onnx"
    onnx.save(model, file)
    (y,) = open_session(file, [CPU]).run(None, {"x": x})
    file.unlink()
    return y


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node if node.op_type != "Constant"]


BATCH = {0: "batch"}
CASES: list[tuple[Module, tuple[int, ...], dict[int, str], list[tuple[int, ...]]]] = [
    (Windows, (1, 8, 12, 3), BATCH, [(1, 8, 12, 3), (7, 8, 12, 3)]),
    (Heads, (2, 5, 6), {0: "batch", 1: "length"}, [(1, 1, 6), (9, 4, 6), (4, 9, 6), (3, 3, 6)]),
    (Beginning, (1, 5), {1: "length"}, [(1, 5), (1, 8), (1, 40)]),
    (Crossed, (2, 3, 4), {0: "a", 1: "b", 2: "c"}, [(2, 3, 4), (5, 1, 7)]),
    (Positioned, (1, 60, 16), BATCH, [(1, 60, 16), (3, 60, 16)]),
]


@pytest.mark.parametrize(
    ("module", "shape", "axes", "others"), CASES, ids=lambda value: getattr(value, "__name__", "")
)
def test_results_are_the_same_for_any_size(
    module: Module,
    shape: tuple[int, ...],
    axes: dict[int, str],
    others: list[tuple[int, ...]],
    tmp_path: Path,
) -> None:
    example = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    before = exported(module(), example, axes, tmp_path)
    after = fixed(before, example, axes, tmp_path)
    for number, other in enumerate(others):
        x = np.random.default_rng(number).standard_normal(other).astype(np.float32)
        np.testing.assert_array_equal(run(before, x, tmp_path), run(after, x, tmp_path))


def test_nothing_is_left_of_a_windows_sizes(tmp_path: Path) -> None:
    example = torch.randn(1, 8, 12, 3)
    before = exported(Windows(), example, BATCH, tmp_path)
    assert {"Shape", "Gather", "Concat", "Pad", "Slice", "Pow"} <= set(kinds(before))
    after = fixed(before, example, BATCH, tmp_path)
    assert set(kinds(after)) == {"Reshape", "Transpose", "CumSum", "Mul"}
    assert not any(tensor.dims and tensor.dims[0] > 16 for tensor in after.graph.initializer)


def test_two_axes_that_vary_stay_as_they_are(tmp_path: Path) -> None:
    example = torch.randn(2, 5, 6)
    before = exported(Heads(), example, {0: "batch", 1: "length"}, tmp_path)
    after = fixed(before, example, {0: "batch", 1: "length"}, tmp_path)
    assert "Shape" in kinds(before)
    assert "Shape" not in kinds(after)


def test_a_slice_that_may_cut_stays(tmp_path: Path) -> None:
    example = torch.randn(1, 5)
    assert "Slice" in kinds(
        fixed(exported(Beginning(), example, {1: "length"}, tmp_path), example, {1: "length"}, tmp_path)
    )


def test_probes_vary_each_axis_on_its_own() -> None:
    sizes = list(probes({"x": (["batch", "length"], (1, 3)), "y": ([7, "batch", "beams"], (7, 1, 2))}))
    assert sizes == [
        {"x": (1, 3), "y": (7, 1, 2)},
        {"x": (2, 5), "y": (7, 2, 6)},
        {"x": (3, 7), "y": (7, 3, 10)},
    ]


def test_shapes_are_those_of_a_run(tmp_path: Path) -> None:
    example = torch.randn(1, 8, 12, 3)
    model = exported(Windows(), example, BATCH, tmp_path)
    found = measure(model, {"x": (5, 8, 12, 3)})
    names = [name for node in model.graph.node for name in node.output]
    assert set(found.shapes) >= set(names)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    file = tmp_path / "all.onnx"
    onnx.save(model, file)
    results = open_session(file, [CPU]).run(None, {"x": np.ones((5, 8, 12, 3), np.float32)})
    for name, result in zip(names, results, strict=True):
        assert found.shapes[name] == result.shape
        if name in found.values:
            np.testing.assert_array_equal(found.values[name], result)
    assert len(found.values) > len(names) / 2


def test_behind_an_operator_that_nobody_knows_all_stays(tmp_path: Path) -> None:
    example = torch.randn(1, 8, 12, 3)
    model = exported(Windows(), example, BATCH, tmp_path)
    unknown = onnx.helper.make_node("Strange", ["x"], ["strange"], domain="somebody")
    model.opset_import.append(onnx.helper.make_opsetid("somebody", 1))
    for node in model.graph.node:
        node.input[:] = ["strange" if name == "x" else name for name in node.input]
    model.graph.node.insert(0, unknown)
    before = kinds(model)
    fix_shapes(model, probes({"x": (["batch", 8, 12, 3], (1, 8, 12, 3))}))
    assert kinds(model) == before


def test_what_an_inner_graph_needs_stays() -> None:
    inner = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["kept"], ["inner"])],
        "inner",
        [],
        [onnx.helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, None)],
    )
    nodes = [
        onnx.helper.make_node("Neg", ["x"], ["kept"]),
        onnx.helper.make_node("Abs", ["x"], ["dropped"]),
        onnx.helper.make_node("If", ["chosen"], ["y"], then_branch=inner, else_branch=inner),
    ]
    sides = [
        onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n"]),
        onnx.helper.make_tensor_value_info("chosen", onnx.TensorProto.BOOL, []),
    ]
    result = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n"])]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "outer", sides, result))
    prune(model)
    assert kinds(model) == ["Neg", "If"]


@pytest.mark.parametrize("rows_first", [False, True])
def test_a_convolution_between_rows_is_not_transposed_twice(rows_first: bool, tmp_path: Path) -> None:
    example = torch.randn(1, 60, 16)
    before = fixed(exported(Positioned(rows_first), example, BATCH, tmp_path), example, BATCH, tmp_path)
    after = onnx.ModelProto.FromString(before.SerializeToString())
    add_channels_last(after)
    onnx.checker.check_model(after, full_check=True)
    assert kinds(after) == ["Reshape", "Transpose", "Conv", "Transpose", "Reshape", "Add", "Mul"]
    for count in (1, 3):
        x = np.random.default_rng(count).standard_normal((count, 60, 16)).astype(np.float32)
        np.testing.assert_array_equal(run(before, x, tmp_path), run(after, x, tmp_path))


def test_a_convolution_whose_result_has_another_use_stays(tmp_path: Path) -> None:
    class Twice(Positioned):
        def forward(self, rows: Any) -> Any:
            image = rows.transpose(1, 2).reshape(rows.shape[0], 16, 6, 10)
            made = self.convolution(image)
            return ((made + image).flatten(2).transpose(1, 2) * 3).sum() + made.amax()

    example = torch.randn(1, 60, 16)
    before = fixed(exported(Twice(), example, BATCH, tmp_path), example, BATCH, tmp_path)
    after = onnx.ModelProto.FromString(before.SerializeToString())
    add_channels_last(after)
    assert kinds(after) == kinds(before)
