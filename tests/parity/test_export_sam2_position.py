"""SAM2's positional embedding is stored in parts, equals transformers', and costs nothing when a graph runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exports import Exported
from transformers import Sam2Model

from florence2_sam2.export.sam2 import IMAGE_ENCODER, BackbonePosition, stretching

pytestmark = pytest.mark.parity


@pytest.mark.parametrize(("height", "width"), [(128, 128), (160, 160), (64, 96)])
def test_it_is_transformers_map(small_checkpoints: Path, height: int, width: int) -> None:
    backbone = Sam2Model.from_pretrained(
        small_checkpoints / "sam2", dtype=torch.float32
    ).vision_encoder.backbone
    with torch.no_grad():
        expected = backbone._get_pos_embed((height, width)).numpy()
        np.testing.assert_allclose(BackbonePosition(backbone, height, width)().numpy(), expected, atol=1e-6)
    assert np.ptp(expected) > 0.1


@pytest.mark.parametrize(("count", "size"), [(7, 128), (14, 14), (3, 5)])
def test_stretching_along_both_axes_is_bicubic_interpolation(count: int, size: int) -> None:
    values = torch.randn(count, count, generator=torch.Generator().manual_seed(0))
    matrix = stretching(count, size)
    expected = torch.nn.functional.interpolate(values[None, None], (size, size), mode="bicubic")[0, 0]
    torch.testing.assert_close(matrix @ values @ matrix.T, expected, atol=1e-5, rtol=0)


def test_the_file_has_the_parts_and_the_loaded_graph_the_map(
    exports: Callable[[str], Exported], tmp_path: Path
) -> None:
    path = exports("fp32").repository / IMAGE_ENCODER
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    options.log_severity_level = 3  # it warns that the file suits this machine only
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    kinds = [
        Counter(node.op_type for node in onnx.load(file).graph.node)
        for file in (path, tmp_path / "loaded.onnx")
    ]
    assert kinds[0]["Tile"] == 1
    assert kinds[1]["Tile"] == 0
    assert (tmp_path / "loaded.onnx").stat().st_size > 1.5 * path.stat().st_size
