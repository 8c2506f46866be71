"""Encoders have one operator for each attention, it computes transformers' attention, and float16 keeps the parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from exports import Exported
from torch import nn
from transformers import Florence2ForConditionalGeneration, Sam2Model
from transformers.models.bart.modeling_bart import BartAttention

from florence2_sam2.export import florence2, sam2
from florence2_sam2.export.attention import fused

pytestmark = pytest.mark.parity


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


def attentions(module: nn.Module, kind: str) -> int:
    return sum(type(part).__name__ == kind for part in module.modules())


def test_each_attention_of_an_encoder_is_one_operator(
    exports: Callable[[str], Exported], small_checkpoints: Path
) -> None:
    repository = exports("fp32").repository
    captioner = Florence2ForConditionalGeneration.from_pretrained(small_checkpoints / "florence2").model
    segmenter = Sam2Model.from_pretrained(small_checkpoints / "sam2")
    windows = attentions(captioner.vision_tower, "Florence2VisionWindowAttention")
    channels = attentions(captioner.vision_tower, "Florence2VisionChannelAttention")
    layers = attentions(captioner.language_model.encoder, "BartAttention")
    scales = attentions(segmenter.vision_encoder, "Sam2MultiScaleAttention")
    assert min(windows, channels, layers, scales) > 0
    for file, fused_ones, plain in [
        (florence2.VISION_ENCODER, windows, channels),
        (florence2.TEXT_ENCODER, layers, 0),
        (sam2.IMAGE_ENCODER, scales, 0),
    ]:
        found = operators(repository / file)
        assert (found["MultiHeadAttention"], found["Softmax"]) == (fused_ones, plain)
    # What attends to a cache, or from many boxes to one picture, is no such operator's case.
    for file in (florence2.DECODER, sam2.MASK_DECODER):
        assert operators(repository / file)["MultiHeadAttention"] == 0


def test_float16_keeps_the_parts(exports: Callable[[str], Exported]) -> None:
    repository = exports("fp16").repository
    for file in (florence2.VISION_ENCODER, florence2.TEXT_ENCODER, sam2.IMAGE_ENCODER):
        assert operators(repository / file)["MultiHeadAttention"] == 0


def test_the_exporters_model_computes_as_before_and_is_left_as_it_was(small_checkpoints: Path) -> None:
    model = Florence2ForConditionalGeneration.from_pretrained(
        small_checkpoints / "florence2", dtype=torch.float32
    ).eval()
    encoder = model.model.language_model.encoder
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 7, model.config.text_config.d_model, generator=generator)
    mask = torch.zeros(2, 1, 1, 7)
    mask[1, :, :, 4:] = florence2.MASKED
    before = {part.config._attn_implementation for part in encoder.modules() if hasattr(part, "config")}
    attention = next(part for part in encoder.modules() if isinstance(part, BartAttention))
    with torch.no_grad():
        expected = attention(hidden, attention_mask=mask)[0]
        with fused(encoder):
            result = attention(hidden, attention_mask=mask)[0]
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)
    assert {
        part.config._attn_implementation for part in encoder.modules() if hasattr(part, "config")
    } == before


def test_projections_apart_are_those_together(small_checkpoints: Path) -> None:
    """Of all three ways in which the towers take them apart, with a bias and without."""
    captioner = Florence2ForConditionalGeneration.from_pretrained(
        small_checkpoints / "florence2", dtype=torch.float32
    ).eval()
    segmenter = Sam2Model.from_pretrained(small_checkpoints / "sam2", dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    for tower, kind, axes in [
        (captioner.model.vision_tower, "Florence2VisionWindowAttention", (30, 26)),
        (captioner.model.vision_tower, "Florence2VisionChannelAttention", (35,)),
        (segmenter.vision_encoder, "Sam2MultiScaleAttention", (8, 8)),
    ]:
        for bias in (True, False):
            part = next(module for module in tower.modules() if type(module).__name__ == kind)
            if not bias:
                part.qkv.bias = None
            together = part.qkv
            hidden = torch.randn(2, *axes, together.in_features, generator=generator)
            with torch.no_grad():
                expected = part(hidden)
                with fused(tower):
                    assert part.qkv is not together
                    result = part(hidden)
            torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
            assert part.qkv is together
