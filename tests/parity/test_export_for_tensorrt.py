"""The leaf models' graphs with attention in parts, in both precisions, hold nothing that TensorRT's parser refuses."""

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
from florence2_sam2.export.run import DEFAULT_OPSET, OPSETS
from florence2_sam2.export.tensorrt_operators import refused

pytestmark = pytest.mark.parity

LEAVES = (florence2.VISION_ENCODER, sam2.IMAGE_ENCODER, sam2.MASK_DECODER)


@pytest.fixture(scope="module")
def graphs(small_checkpoints: Path) -> dict[str, Graph]:
    captioner = Florence2ForConditionalGeneration.from_pretrained(
        small_checkpoints / "florence2", dtype=torch.float32
    )
    segmenter = Sam2Model.from_pretrained(small_checkpoints / "sam2", dtype=torch.float32)
    vision, _, _ = florence2.graphs(captioner, 384, 384)
    return {graph.file: graph for graph in (vision, *sam2.graphs(segmenter))}


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
