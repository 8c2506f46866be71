"""Each encoder gets the form that runs faster on this machine, and the manifest says which and by how much."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from florence2_sam2.export import choice, florence2, graphs, sam2
from florence2_sam2.export.run import export
from florence2_sam2.server.manifest import AttentionForm, external_data, read_florence2, read_sam2

pytestmark = pytest.mark.parity


def fused_nodes(path: Path) -> int:
    model = onnx.load(path, load_external_data=False)
    return sum(node.op_type == "MultiHeadAttention" for node in model.graph.node)


def test_the_preferred_form_gives_way_to_a_clearly_faster_one() -> None:
    assert choice.best({"fused": 10.0, "parts": 9.0}, "fused") == "parts"
    assert choice.best({"fused": 10.0, "parts": 9.9}, "fused") == "fused"
    assert choice.best({"fused": 9.0, "parts": 10.0}, "fused") == "fused"


def test_times_are_of_the_files(tmp_path: Path) -> None:
    files = {}
    for name, repeats in (("short", 1), ("long", 60)):
        nodes = [
            onnx.helper.make_node("MatMul", [f"x{i}" if i else "x", "x"], [f"x{i + 1}"])
            for i in range(repeats)
        ]
        nodes.append(onnx.helper.make_node("Identity", [f"x{repeats}"], ["y"]))
        ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [300, 300]) for n in "xy"]
        graph = onnx.helper.make_graph(nodes, name, ends[:1], ends[1:])
        files[name] = tmp_path / f"{name}.onnx"
        opset = [onnx.helper.make_opsetid("", 18)]
        onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), files[name])
    times = choice.milliseconds(files, {"x": np.eye(300, dtype=np.float32)})
    assert list(times) == ["short", "long"]
    assert 5 * times["short"] < times["long"]


@pytest.mark.parametrize("faster", [pytest.param("fused", marks=pytest.mark.long), "parts"])
def test_the_faster_form_is_kept_and_named(
    faster: str, small_checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = choice.milliseconds

    def pretended(files: dict[str, Path], inputs: dict[str, np.ndarray]) -> dict[str, float]:
        assert set(measured(files, inputs)) == {"fused", "parts"}  # both run
        assert [fused_nodes(file) > 0 for file in (files["fused"], files["parts"])] == [True, False]
        return {name: 1.0 if name == faster else 2.0 for name in files}

    monkeypatch.setattr(choice, "milliseconds", pretended)
    # as for the largest models: the weights beside the graph
    monkeypatch.setattr(graphs, "EXTERNAL_DATA_FROM_BYTES", 1_000_000)
    said: list[str] = []
    output = tmp_path / "repository"
    export(output, str(small_checkpoints / "florence2"), str(small_checkpoints / "sam2"), report=said.append)
    times = {"fused": 1.0 if faster == "fused" else 2.0, "parts": 1.0 if faster == "parts" else 2.0}
    attention = {**read_florence2(output).attention, **read_sam2(output).attention}
    encoders = (florence2.VISION_ENCODER, florence2.TEXT_ENCODER, sam2.IMAGE_ENCODER)
    assert attention == {file: AttentionForm(faster, times) for file in encoders}
    for file in encoders:
        assert (fused_nodes(output / file) > 0) == (faster == "fused")
        assert any(file in line and f"{faster} chosen" in line for line in said)
        version = output / Path(file).parent
        assert not [path for path in version.iterdir() if path.name.startswith(".")]
    assert external_data(output / florence2.VISION_ENCODER).exists()


def test_a_form_that_was_asked_for_is_not_timed(
    small_checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "milliseconds", None)
    export(tmp_path / "r", sam2_checkpoint=str(small_checkpoints / "sam2"), attention="parts", report=len)
    assert read_sam2(tmp_path / "r").attention == {sam2.IMAGE_ENCODER: AttentionForm("parts")}
    assert fused_nodes(tmp_path / "r" / sam2.IMAGE_ENCODER) == 0
