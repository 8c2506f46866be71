"""Meta's original SAM2 files, by name and shape: which model a state dict is, and what transformers calls its parts.

SAM2 and SAM2.1 of one size are the same network where pictures are concerned, so one table serves both; they differ
in how video memory is made, of which `Sam2Model` has nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from florence2_sam2.export.errors import ExportError

Shapes = Mapping[str, tuple[int, ...]]

# What each kind of file has and others have not.
_PATCHES = "image_encoder.trunk.patch_embed.proj.weight"
_OTHER_FILES = (
    ("vision_encoder.backbone.", "these are transformers' names: give the folder that the file lies in"),
    ("detector.", "this is SAM 3, of which nothing is known here"),
    ("image_encoder.patch_embed.", "this is the first Segment Anything (SAM), not SAM2"),
)

_VIDEO_ONLY = re.compile(
    r"(memory_attention|memory_encoder|mask_downsample|obj_ptr_proj|obj_ptr_tpos_proj)\..+"
    r"|maskmem_tpos_enc|no_mem_pos_enc|no_obj_ptr|no_obj_embed_spatial"
)
_SINCE_2_1 = ("no_obj_embed_spatial", "obj_ptr_tpos_proj.")


@dataclass(frozen=True)
class Size:
    """One of Meta's configurations (`sam2/configs/sam2.1/*.yaml`; those in `configs/sam2` say the same).

    `channels`, `blocks` and `positions` show in the weights' shapes. The rest does not.
    """

    name: str
    channels: int  # of the first stage; every later one has twice as many, and twice the heads
    heads: int
    blocks: tuple[int, ...]  # per stage
    windows: tuple[int, ...]  # side of the attention windows per stage, in tokens
    global_blocks: tuple[int, ...]  # blocks whose attention has no windows
    positions: int  # side of the positional embedding that is stretched over the picture, in tokens
    picture: int = 1024  # side of the square picture, in pixels


SIZES = (
    Size("tiny", 96, 1, (1, 2, 7, 2), (8, 4, 14, 7), (5, 7, 9), 7),
    Size("small", 96, 1, (1, 2, 11, 2), (8, 4, 14, 7), (7, 10, 13), 7),
    Size("base_plus", 112, 2, (2, 3, 16, 3), (8, 4, 14, 7), (12, 16, 20), 14),
    Size("large", 144, 2, (2, 6, 36, 4), (8, 4, 16, 8), (23, 33, 43), 7),
)


def recognise(shapes: Shapes) -> Size:
    """The size whose trunk has this width and depth; that everything else fits too is `require_complete`'s to say.

    Raises:
        ExportError: not SAM2, or SAM2 of another size.
    """
    if len(shapes.get(_PATCHES, ())) != 4:
        for start, what in _OTHER_FILES:
            if any(name.startswith(start) for name in shapes):
                raise ExportError(what)
        first = f"; its first name is {short(next(iter(shapes)))}" if shapes else ""
        raise ExportError(f"this is no SAM2: {_PATCHES} is not in it{first}")
    channels = shapes[_PATCHES][0]
    numbers = (re.match(r"image_encoder\.trunk\.blocks\.(\d{1,4})\.", name) for name in shapes)
    depth = 1 + max((int(number[1]) for number in numbers if number), default=-1)
    for size in SIZES:
        if (channels, depth) == (size.channels, sum(size.blocks)):
            return size
    known = ", ".join(f"{size.name} ({size.channels}, {sum(size.blocks)})" for size in SIZES)
    raise ExportError(f"its trunk has {channels} channels and {depth} blocks, which is none of {known}")


def version(names: Iterable[str]) -> str:
    """SAM2.1 for a file that has what only that has, else SAM2."""
    return "SAM2.1" if any(name.startswith(_SINCE_2_1) for name in names) else "SAM2"


def settings(size: Size) -> dict[str, Any]:
    """The arguments of transformers' `Sam2Config`; what is left out is the same in every size, and its default."""
    channels = [size.channels << stage for stage in range(len(size.blocks))]
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "image_size": [size.picture, size.picture],
        "hidden_size": size.channels,
        "num_attention_heads": size.heads,
        "blocks_per_stage": list(size.blocks),
        "embed_dim_per_stage": channels,
        "num_attention_heads_per_stage": [size.heads << stage for stage in range(len(size.blocks))],
        "window_size_per_stage": list(size.windows),
        "global_attention_blocks": list(size.global_blocks),
        "window_positional_embedding_background_size": [size.positions, size.positions],
    }
    return {
        "vision_config": {
            "model_type": "sam2_vision_model",
            "backbone_config": backbone,
            "backbone_channel_list": channels[::-1],
            "backbone_feature_sizes": [[size.picture // stride] * 2 for stride in (4, 8, 16)],
        },
        "prompt_encoder_config": {"image_size": size.picture},
        "mask_decoder_config": {
            # `build_sam2` switches these on for every checkpoint, beyond what the configurations say.
            "dynamic_multimask_via_stability": True,
            "dynamic_multimask_stability_delta": 0.05,
            "dynamic_multimask_stability_thresh": 0.98,
        },
    }


# transformers' names in Meta's words: applied in this order, each wherever it matches.
_WORDS = tuple(
    (re.compile(pattern), word)
    for pattern, word in (
        (r"^no_memory_embedding$", "no_mem_embed"),
        (r"^shared_image_embedding\.", "prompt_encoder.shared_embedding."),
        (r"^prompt_encoder\.shared_embedding\.positional_embedding$",
         "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
        (r"^vision_encoder\.backbone\.", "image_encoder.trunk."),
        (r"^vision_encoder\.neck\.convs\.(\d+)\.", r"image_encoder.neck.convs.\1.conv."),
        (r"^(prompt_encoder|mask_decoder)\.", r"sam_\1."),
        (r"\.patch_embed\.projection\.", ".patch_embed.proj."),
        (r"\.mask_embed\.conv1\.", ".mask_downscaling.0."),
        (r"\.mask_embed\.layer_norm1\.", ".mask_downscaling.1."),
        (r"\.mask_embed\.conv2\.", ".mask_downscaling.3."),
        (r"\.mask_embed\.layer_norm2\.", ".mask_downscaling.4."),
        (r"\.mask_embed\.conv3\.", ".mask_downscaling.6."),
        (r"\.upscale_conv1\.", ".output_upscaling.0."),
        (r"\.upscale_layer_norm\.", ".output_upscaling.1."),
        (r"\.upscale_conv2\.", ".output_upscaling.3."),
        (r"\.layer_norm", ".norm"),
        (r"\.o_proj\.", ".out_proj."),
        # MLPs: those of transformer blocks have two layers, the heads three.
        (r"\.mlp\.proj_in\.", ".mlp.layers.0."),
        (r"\.mlp\.proj_out\.", ".mlp.layers.1."),
        (r"(_head|_mlps\.\d)\.layers\.0\.", r"\1.layers.1."),
        (r"(_head|_mlps\.\d)\.proj_in\.", r"\1.layers.0."),
        (r"(_head|_mlps\.\d)\.proj_out\.", r"\1.layers.2."),
    )
)  # fmt: skip


def original_names(name: str) -> tuple[str, ...]:
    """Meta's name of one of `Sam2Model`'s parameters; several where transformers keeps their rows in one."""
    if name == "prompt_encoder.point_embed.weight":
        return tuple(f"sam_prompt_encoder.point_embeddings.{kind}.weight" for kind in range(4))
    for pattern, word in _WORDS:
        name = pattern.sub(word, name)
    return (name,)


def require_complete(shapes: Shapes, wanted: Shapes, model: str) -> None:
    """Hold a file's names and shapes against those that `model` needs; what only videos need may be there or not.

    Raises:
        ExportError: names the first that is missing, left over, or of another shape, and says how many there are.
    """
    missing = [name for name in wanted if name not in shapes]
    if missing:
        raise ExportError(f"as {model} it lacks {_several(missing)}")
    left = [name for name in shapes if name not in wanted and not _VIDEO_ONLY.fullmatch(name)]
    if left:
        raise ExportError(f"{model} has no place for {_several(left)}")
    for name, shape in wanted.items():
        if tuple(shapes[name]) != tuple(shape):
            raise ExportError(
                f"as {model} its {name} must be of shape {list(shape)}, not {list(shapes[name])}"
            )


def _several(names: list[str]) -> str:
    return short(names[0]) + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def short(name: str) -> str:
    """A name of a stranger's file, fit for one line."""
    printable = name.encode("unicode_escape").decode()
    return printable if len(printable) <= 100 else printable[:97] + "..."
