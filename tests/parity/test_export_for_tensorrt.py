"""The leaf models' graphs with attention in parts, in both precisions, hold nothing that TensorRT's parser refuses; an
export has them in parts when it has plans.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from exports import Exported
from transformers import Florence2ForConditionalGeneration, Sam2Model

from florence2_sam2.export import florence2, sam2
from florence2_sam2.export.graphs import Graph, write_graph
from florence2_sam2.export.run import DEFAULT_OPSET, OPSETS, export
from florence2_sam2.export.tensorrt_operators import refused
from florence2_sam2.server import manifest

pytestmark = pytest.mark.parity

# In place of TensorRT and a GPU, of which there are none: says which it is, and writes something.
TRTEXEC = """#!/bin/sh
echo "&&&& RUNNING TensorRT.trtexec [TensorRT v110100] [b106]"
for word; do case $word in --saveEngine=*) echo "$*" > "${word#--saveEngine=}";; esac; done
"""
SMI = "#!/bin/sh\necho 'NVIDIA L4, 8.9'\n"

LEAVES = (florence2.VISION_ENCODER, sam2.IMAGE_ENCODER, sam2.MASK_DECODER)


@pytest.fixture(scope="module")
def graphs(small_checkpoints: Path) -> dict[str, Graph]:
    captioner = Florence2ForConditionalGeneration.from_pretrained(
        small_checkpoints / "florence2", dtype=torch.float32
    )
    segmenter = Sam2Model.from_pretrained(small_checkpoints / "sam2", dtype=torch.float32)
    repository = manifest.packaged_repository()
    vision, _, _ = florence2.graphs(captioner, manifest.read_florence2(repository).image)
    return {
        graph.file: graph for graph in (vision, *sam2.graphs(segmenter, manifest.read_sam2(repository).image))
    }


@pytest.mark.parametrize(
    ("leaf", "opset"), [*((leaf, DEFAULT_OPSET) for leaf in LEAVES), (sam2.MASK_DECODER, OPSETS.stop - 1)]
)
def test_in_parts_nothing_is_refused(graphs: dict[str, Graph], tmp_path: Path, leaf: str, opset: int) -> None:
    file = tmp_path / "model.onnx"
    write_graph(graphs[leaf], file, opset, "fp32", attention="parts")
    assert [str(found) for found in refused(onnx.load(file))] == []


@pytest.mark.parametrize("leaf", LEAVES)
def test_in_float16_nothing_is_refused(exports: Callable[[str], Exported], leaf: str) -> None:
    assert [str(found) for found in refused(onnx.load(exports("fp16").repository / leaf))] == []


@pytest.mark.parametrize("leaf", LEAVES[:2])
def test_the_fused_operator_is_what_is_refused(exports: Callable[[str], Exported], leaf: str) -> None:
    found = refused(onnx.load(exports("fp32").repository / leaf))
    assert {row.operator for row in found} == {"MultiHeadAttention"}


def test_an_export_with_plans(
    small_checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("trtexec", TRTEXEC), ("nvidia-smi", SMI)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    said: list[str] = []
    export(
        tmp_path / "repository",
        sam2_checkpoint=str(small_checkpoints / "sam2"),
        plans=True,
        report=said.append,
    )
    sam2_manifest = manifest.read_sam2(tmp_path / "repository")
    assert sam2_manifest.plans == {
        f"{leaf}/1/model.plan": manifest.Plan("11.1.0", "NVIDIA L4", "8.9")
        for leaf in ("sam2_image_encoder", "sam2_mask_decoder")
    }
    assert sam2_manifest.attention[sam2.IMAGE_ENCODER].form == "parts"
    plan = (tmp_path / "repository" / "sam2_mask_decoder" / "1" / "model.plan").read_text()
    assert "boxes:64x4" in plan
    assert any("which takes minutes" in line for line in said)
