"""SAM2 as two ONNX graphs: image encoder and mask decoder for box prompts.

The mask decoder gives what `Sam2Model(..., input_boxes=..., multimask_output=False)` gives, computed with the boxes as
the batch axis: what depends on the picture alone (the first layer's projections of the image embedding) is computed
once, not once per box, and the projections of the constant positional embedding are folded into biases.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Sam2Model

from florence2_sam2.export.graphs import Graph, Tensor
from florence2_sam2.export.normalisation import Normalisation
from florence2_sam2.export.sam2_two_way import TokensToImage, TwoWayLayer
from florence2_sam2.export.sam2_upscaling import Upscaling, unblocked
from florence2_sam2.server.manifest import ImageSpec

IMAGE_ENCODER = "sam2_image_encoder/1/model.onnx"
MASK_DECODER = "sam2_mask_decoder/1/model.onnx"


class BackbonePosition(nn.Module):
    """The backbone's positional embedding [1,H,W,C] from the few numbers that it is made of.

    A small map is stretched bicubically, which is linear along each axis and so two matrix products, and a window is
    repeated over it. The file stores these parts in place of the map (25 MB of SAM2-tiny's 134), and onnxruntime
    multiplies constants out when it loads a graph, so that nothing is left to do for a picture.
    """

    def __init__(self, backbone: Any, height: int, width: int) -> None:
        super().__init__()
        self.background = nn.Buffer(backbone.pos_embed.detach()[0].permute(1, 2, 0).contiguous())  # [h,w,C]
        self.window = nn.Buffer(backbone.pos_embed_window.detach()[0].permute(1, 2, 0).contiguous())
        self.rows = nn.Buffer(stretching(self.background.shape[0], height))
        self.columns = nn.Buffer(stretching(self.background.shape[1], width))
        self.repeats = (height // self.window.shape[0], width // self.window.shape[1], 1)

    def forward(self) -> torch.Tensor:
        height, (_, w, channels) = self.rows.shape[0], self.background.shape
        tall = (self.rows @ self.background.reshape(-1, w * channels)).reshape(height, w, channels)
        return (self.columns @ tall + self.window.repeat(self.repeats))[None]


def stretching(count: int, size: int) -> torch.Tensor:
    """The matrix [size, count] that stretches `count` values bicubically, as `F.interpolate` does along each axis."""
    return F.interpolate(torch.eye(count)[None, None], size=(size, count), mode="bicubic")[0, 0]


class ImageEncoder(nn.Module):
    """`pixels` UINT8 [B,3,S,S] → image embedding with `no_memory_embedding` added, and the two finer maps."""

    backbone: Any
    neck: Any
    position: Any
    no_memory_embedding: Any

    def __init__(self, model: Any, image: ImageSpec) -> None:
        super().__init__()
        self.normalisation = Normalisation(image)
        self.backbone = model.vision_encoder.backbone
        self.neck = model.vision_encoder.neck
        self.levels = model.vision_encoder.num_feature_levels
        self.conv_s0 = model.mask_decoder.conv_s0
        self.conv_s1 = model.mask_decoder.conv_s1
        self.no_memory_embedding = nn.Buffer(model.no_memory_embedding.detach().reshape(1, -1, 1, 1))
        with torch.no_grad():
            patches = self.backbone.patch_embed(torch.zeros(1, 3, image.height, image.width))
        self.position = BackbonePosition(self.backbone, *patches.shape[1:3])

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        hidden = self.backbone.patch_embed(self.normalisation(pixels)) + self.position()
        stages = []
        for index, block in enumerate(self.backbone.blocks):
            hidden = block(hidden)
            if index in self.backbone.stage_ends:
                stages.append(hidden)
        coarse, middle, fine = self.neck(tuple(stages))[0][-self.levels :]
        return coarse + self.no_memory_embedding, self.conv_s0(fine), self.conv_s1(middle)


class BoxEmbedding(nn.Module):
    """Boxes FP32 [N,4] in the S×S frame → prompt tokens [N,3,C]: both corners and the padding point (label -1)."""

    position: Any
    corners: Any
    padding: Any

    def __init__(self, model: Any) -> None:
        super().__init__()
        prompt = model.prompt_encoder
        self.position = prompt.shared_embedding
        self.size = prompt.input_image_size
        self.corners = nn.Buffer(prompt.point_embed.weight.detach()[2:4])
        self.padding = nn.Buffer(prompt.not_a_point_embed.weight.detach())

    def forward(self, boxes: torch.Tensor) -> torch.Tensor:
        # half a pixel: coordinates name pixels, the embedding wants their centres
        corners = self.position((boxes.reshape(-1, 2, 2) + 0.5) / self.size) + self.corners
        padding = self.padding.expand(boxes.shape[0], 1, -1)
        return torch.cat([corners, padding], dim=1)


class MaskChoice(nn.Module):
    """Logits [N,M,P] of P pixels in any order and scores [N,M] of all mask tokens → those of the one mask to return.

    Token 0 unless its mask is unstable: then the best of the others by predicted IoU
    (`_dynamic_multimask_via_stability` in transformers).
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        decoder = model.mask_decoder
        self.dynamic = decoder.dynamic_multimask_via_stability
        self.delta = decoder.dynamic_multimask_stability_delta
        self.threshold = decoder.dynamic_multimask_stability_thresh

    def forward(self, logits: torch.Tensor, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.dynamic:
            return logits[:, 0], scores[:, 0]
        single = logits[:, 0]
        inner = (single > self.delta).sum(dim=-1).float()
        outer = (single > -self.delta).sum(dim=-1).float()
        # an empty mask counts as stable
        stability = torch.where(outer > 0, inner / outer.clamp(min=1.0), torch.tensor(1.0))
        best = scores[:, 1:].argmax(dim=-1) + 1
        # Nothing here may ask for the number of boxes: the exporter would write down the example's.
        chosen = best * (stability < self.threshold).to(best.dtype)
        mask, score = logits[:, 0], scores[:, 0]
        for token in range(1, logits.shape[1]):
            mask = torch.where((chosen == token)[:, None], logits[:, token], mask)
            score = torch.where(chosen == token, scores[:, token], score)
        return mask, score


class MaskDecoder(nn.Module):
    """The maps of one picture and N boxes → `mask_logits` FP32 [N,S/4,S/4] and `scores` FP32 [N]."""

    decoder: Any
    final: Any
    tokens: Any
    no_mask: Any

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder = model.mask_decoder
        self.box_embedding = BoxEmbedding(model)
        self.upscaling = Upscaling(model.mask_decoder)
        self.choice = MaskChoice(model)
        decoder = model.mask_decoder
        tokens = [decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight]
        self.tokens = nn.Buffer(torch.cat(tokens).detach()[None])
        self.no_mask = nn.Buffer(model.prompt_encoder.no_mask_embed.weight.detach().reshape(1, -1, 1, 1))
        with torch.no_grad():
            position = model.get_image_wide_positional_embeddings().flatten(2).transpose(1, 2)
        transformer = decoder.transformer
        self.position = nn.Buffer(position)
        self.layers = nn.ModuleList(TwoWayLayer(layer) for layer in transformer.layers)
        self.final = TokensToImage(transformer.final_attn_token_to_image)
        self.final_norm = transformer.layer_norm_final_attn

    def forward(
        self,
        image_embeddings: torch.Tensor,
        high_res_features_0: torch.Tensor,
        high_res_features_1: torch.Tensor,
        boxes: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        prompt = self.box_embedding(boxes)
        points = torch.cat([self.tokens.expand(boxes.shape[0], -1, -1), prompt], dim=1)
        keys = (
            (image_embeddings + self.no_mask).flatten(2).transpose(1, 2)
        )  # [1,HW,C] until the first layer's end
        queries = points
        for layer in self.layers:
            queries, keys = layer(queries, keys, points, self.position)
        attended = self.final(queries + points, keys + self.position, keys)
        queries = self.final_norm(queries + attended)

        kernels = torch.stack(
            [mlp(queries[:, 2 + index]) for index, mlp in enumerate(self.decoder.output_hypernetworks_mlps)],
            dim=1,
        )
        logits = self.upscaling(keys, kernels, high_res_features_0, high_res_features_1)
        mask, score = self.choice(logits, self.decoder.iou_prediction_head(queries[:, 1]))
        height, width = image_embeddings.shape[-2:]
        return unblocked(mask, height, width, doublings=2), score


def graphs(model: Sam2Model, image: ImageSpec) -> tuple[Graph, Graph]:
    """The two graphs of `model`, for pictures of `image`'s normalisation and size, which is the model's own."""
    size = image.height
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (1, 3, size, size), generator=generator, dtype=torch.uint8)
    encoder = ImageEncoder(model, image)
    with torch.no_grad():
        maps = encoder(pixels)
    names = ("image_embeddings", "high_res_features_0", "high_res_features_1")
    boxes = torch.tensor([[0.1, 0.2, 0.6, 0.7], [0.3, 0.3, 0.9, 0.5], [0.0, 0.0, 1.0, 1.0]]) * size
    mask_size = maps[1].shape[-1]
    return (
        Graph(
            IMAGE_ENCODER,
            encoder,
            (Tensor("pixels", ("batch", 3, size, size)),),
            tuple(Tensor(name, ("batch", *value.shape[1:])) for name, value in zip(names, maps, strict=True)),
            (pixels,),
            float32_scopes=("normalisation",),
            fusible=True,
        ),
        Graph(
            MASK_DECODER,
            MaskDecoder(model),
            (
                *(Tensor(name, (1, *value.shape[1:])) for name, value in zip(names, maps, strict=True)),
                Tensor("boxes", ("boxes", 4)),
            ),
            (Tensor("mask_logits", ("boxes", mask_size, mask_size)), Tensor("scores", ("boxes",))),
            (*maps, boxes),
            float32_scopes=("box_embedding", "choice"),
        ),
    )
