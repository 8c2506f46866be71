"""Which of Meta's SAM2 models a file holds is told by its names and shapes; what is none, or not whole, is named.

The names and shapes are those of Meta's own models, written down by tests/data/sam2_original/make.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from florence2_sam2.export.errors import ExportError
from florence2_sam2.export.sam2_original import recognise, require_complete, settings, version

Shapes = dict[str, tuple[int, ...]]
LAYOUTS = json.loads(
    (Path(__file__).resolve().parent.parent / "data" / "sam2_original" / "layouts.json").read_text("utf-8")
)
SIZES = ("tiny", "small", "base_plus", "large")
PATCHES = "image_encoder.trunk.patch_embed.proj.weight"


def layout(name: str, size: str) -> Shapes:
    parts = (LAYOUTS["every file"], LAYOUTS[size], LAYOUTS["sam2.1"] if name == "SAM2.1" else {})
    return {parameter: tuple(shape) for part in parts for parameter, shape in part.items()}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["SAM2", "SAM2.1"])
def test_all_eight_are_told_apart(name: str, size: str) -> None:
    shapes = layout(name, size)
    assert recognise(shapes).name == size
    assert version(shapes) == name


@pytest.mark.parametrize(
    ("size", "expected"),
    [  # embed_dim, num_heads, stages, window_spec, global_att_blocks and background as in Meta's yaml files
        ("tiny", ([96, 192, 384, 768], [1, 2, 4, 8], [1, 2, 7, 2], [8, 4, 14, 7], [5, 7, 9], [7, 7])),
        ("small", ([96, 192, 384, 768], [1, 2, 4, 8], [1, 2, 11, 2], [8, 4, 14, 7], [7, 10, 13], [7, 7])),
        (
            "base_plus",
            ([112, 224, 448, 896], [2, 4, 8, 16], [2, 3, 16, 3], [8, 4, 14, 7], [12, 16, 20], [14, 14]),
        ),
        ("large", ([144, 288, 576, 1152], [2, 4, 8, 16], [2, 6, 36, 4], [8, 4, 16, 8], [23, 33, 43], [7, 7])),
    ],
)
def test_settings_are_metas(size: str, expected: tuple[list[int], ...]) -> None:
    vision = settings(recognise(layout("SAM2", size)))["vision_config"]
    backbone = vision["backbone_config"]
    assert expected == (
        backbone["embed_dim_per_stage"],
        backbone["num_attention_heads_per_stage"],
        backbone["blocks_per_stage"],
        backbone["window_size_per_stage"],
        backbone["global_attention_blocks"],
        backbone["window_positional_embedding_background_size"],
    )
    assert vision["backbone_channel_list"] == expected[0][::-1]
    assert vision["backbone_feature_sizes"] == [[256, 256], [128, 128], [64, 64]]
    assert backbone["image_size"] == [1024, 1024]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({}, "no SAM2"),
        ({"conv1.weight": (64, 3, 7, 7), "fc.bias": (1000,)}, r"no SAM2.*its first name is conv1\.weight"),
        ({"image_encoder.patch_embed.proj.weight": (768, 3, 16, 16)}, r"Segment Anything \(SAM\)"),
        ({"vision_encoder.backbone.pos_embed": (1, 96, 7, 7)}, "transformers' names.*folder"),
        ({"detector.backbone.weight": (1,)}, "SAM 3"),
        ({PATCHES: (96,)}, "no SAM2"),
        ({PATCHES: (64, 3, 7, 7)}, "64 channels and 0 blocks, which is none of tiny .96, 12."),
        (
            {PATCHES: (96, 3, 7, 7), "image_encoder.trunk.blocks.20.norm1.weight": (768,)},
            "96 channels and 21",
        ),
        ({PATCHES: (96, 3, 7, 7), f"image_encoder.trunk.blocks.{9**99}.x": (1,)}, "96 channels and 0"),
    ],
)
def test_other_models_are_refused(names: Shapes, message: str) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        recognise(names)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["x\ny", "x" * 5000, "\x1b[31mred", "\u202efdp"],
    ids=["two lines", "long", "terminal", "right to left"],
)
def test_a_strangers_names_do_not_break_the_line(name: str) -> None:
    with pytest.raises(ExportError) as caught:
        recognise({name: (1,)})
    assert str(caught.value).isprintable()
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 250


WANTED: Shapes = {"no_mem_embed": (1, 1, 256), PATCHES: (96, 3, 7, 7)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"no_mem_embed": None}, "as SAM2 tiny it lacks no_mem_embed$"),
        ({"no_mem_embed": None, PATCHES: None}, "lacks no_mem_embed and 1 more"),
        ({"adapter.lora_A.weight": (8, 96)}, r"SAM2 tiny has no place for adapter\.lora_A\.weight$"),
        ({"no_mem_embed2": (1,), "b": (1,)}, "no place for no_mem_embed2 and 1 more"),
        ({"my.memory_encoder.x": (1,)}, "no place for my.memory_encoder.x"),
        ({PATCHES: (96, 4, 7, 7)}, r"must be of shape \[96, 3, 7, 7\], not \[96, 4, 7, 7\]"),
        ({PATCHES: (96, 3, 7, 7, 1)}, r"not \[96, 3, 7, 7, 1\]"),
    ],
)
def test_what_is_missing_left_over_or_of_another_shape_is_named(
    change: dict[str, tuple[int, ...] | None], message: str
) -> None:
    shapes = {name: shape for name, shape in (WANTED | change).items() if shape is not None}
    with pytest.raises(ExportError, match=message):
        require_complete(shapes, WANTED, "SAM2 tiny")


def test_what_only_videos_need_may_be_there_or_not() -> None:
    shapes = layout("SAM2.1", "tiny")
    pictures = ("image_encoder.", "sam_prompt_encoder.", "sam_mask_decoder.", "no_mem_embed")
    wanted = {name: shape for name, shape in shapes.items() if name.startswith(pictures)}
    assert len(shapes) - len(wanted) == 160
    require_complete(shapes, wanted, "SAM2.1 tiny")
    require_complete(wanted, wanted, "SAM2.1 tiny")
