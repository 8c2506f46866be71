"""The mask decoder's parts, which the export computes in another order, give what transformers' modules give."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from transformers import Sam2MaskDecoderConfig
from transformers.models.sam2.modeling_sam2 import Sam2Attention, Sam2MaskDecoder

from florence2_sam2.export.sam2_two_way import ImageToTokens, TokensToImage
from florence2_sam2.export.sam2_upscaling import Doubling, Upscaling, blocked, unblocked

pytestmark = pytest.mark.parity


def config(**changes: int) -> Sam2MaskDecoderConfig:
    settings = {"hidden_size": 32, "mlp_dim": 48, "num_attention_heads": 4, "num_hidden_layers": 2, **changes}
    return Sam2MaskDecoderConfig(**settings)


@hypothesis.given(
    n=st.integers(1, 3),
    channels=st.integers(1, 5),
    tall=st.integers(1, 4),
    wide=st.integers(1, 4),
    doublings=st.integers(1, 3),
)
def test_the_order_of_pixels_is_undone(n: int, channels: int, tall: int, wide: int, doublings: int) -> None:
    maps = torch.arange(n * channels * (tall * wide << 2 * doublings)).reshape(
        n, channels, tall << doublings, wide << doublings
    )
    pixels = blocked(maps, doublings)
    assert pixels.shape == (n, tall * wide << 2 * doublings, channels)
    for channel in range(channels):
        assert torch.equal(unblocked(pixels[..., channel], tall, wide, doublings), maps[:, channel])


@hypothesis.given(
    seed=st.integers(0, 99), tall=st.integers(1, 5), wide=st.integers(1, 5), boxes=st.integers(1, 3)
)
@hypothesis.settings(max_examples=20)
def test_upscaling_is_the_transposed_convolutions(seed: int, tall: int, wide: int, boxes: int) -> None:
    torch.manual_seed(seed)
    decoder = Sam2MaskDecoder(config()).eval()
    torch.nn.init.normal_(decoder.upscale_layer_norm.weight)
    torch.nn.init.normal_(decoder.upscale_layer_norm.bias)
    keys, kernels = torch.randn(boxes, tall * wide, 32), torch.randn(boxes, 3, 4)
    fine, middle = torch.randn(1, 4, 4 * tall, 4 * wide), torch.randn(1, 8, 2 * tall, 2 * wide)
    with torch.no_grad():
        maps = keys.transpose(1, 2).unflatten(2, (tall, wide))
        maps = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(maps) + middle))
        maps = decoder.activation(decoder.upscale_conv2(maps) + fine)
        expected = (kernels @ maps.flatten(2)).unflatten(2, (4 * tall, 4 * wide))
        logits = Upscaling(decoder)(keys, kernels, fine, middle)
    for mask in range(3):
        result = unblocked(logits[:, mask], tall, wide, 2)
        torch.testing.assert_close(result, expected[:, mask], atol=1e-5, rtol=1e-5)


def test_another_convolution_is_refused() -> None:
    with pytest.raises(ValueError, match="not a doubling"):
        Doubling(torch.nn.ConvTranspose2d(4, 2, 3, stride=2))


@pytest.mark.parametrize("pictures", [1, 3], ids=["one picture's positions", "each box's own"])
@pytest.mark.parametrize("tokens", [2, 9, 40])
def test_attention_is_transformers(tokens: int, pictures: int) -> None:
    torch.manual_seed(tokens)
    attention = Sam2Attention(config(), downsample_rate=2).eval()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    named, told = torch.randn(3, tokens, 32), torch.randn(3, tokens, 32)
    placed, keys = torch.randn(pictures, 50, 32), torch.randn(pictures, 50, 32)
    wide = [
        part.expand(3, -1, -1)[:, None] for part in (placed, keys)
    ]  # [N,1,P,C]: transformers' boxes have an axis
    with torch.no_grad():
        expected = attention(query=named[:, None], key=wide[0], value=wide[1])[0][:, 0]
        torch.testing.assert_close(
            TokensToImage(attention)(named, placed, keys), expected, atol=1e-5, rtol=1e-5
        )
        expected = attention(query=wide[0], key=named[:, None], value=told[:, None])[0][:, 0]
        torch.testing.assert_close(
            ImageToTokens(attention)(placed, named, told), expected, atol=1e-5, rtol=1e-5
        )
