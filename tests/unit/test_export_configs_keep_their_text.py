"""Export sets sizes in Triton's configs and touches nothing else: comments, order and other numbers stay."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence2_sam2.export.configs import (
    read_dims,
    read_profile,
    read_shapes,
    rewrite,
    set_dims,
    write_shapes,
)
from florence2_sam2.export.errors import ExportError

TEXT = """# a leaf with "quotes" in a comment, and name: "pixel_values" too
name: "pixel_values_model"
backend: "onnxruntime"
max_batch_size: 4
input [
  { name: "pixel_values" data_type: TYPE_FP32 dims: [ 3, 160, 160 ] },  # the picture
  {
    name: "boxes"
    # in the S×S frame
    data_type: TYPE_FP32
    dims: [ -1, 4 ]
  }
]
output [ { name: "image_features" data_type: TYPE_FP32 dims: [ 101, 128 ] } ]
dynamic_batching { max_queue_delay_microseconds: 500 }
model_warmup [
  {
    name: "three boxes"
    batch_size: 1
    inputs { key: "pixel_values" value: { data_type: TYPE_FP32 dims: [ 3, 160, 160 ] zero_data: true } }
    inputs { key: "boxes" value { data_type: TYPE_FP32 dims: [ 3, 4 ] random_data: true } }
  }
]
"""

ACCELERATED = (
    TEXT.replace("onnxruntime", "onnxruntime, with TensorRT")
    + """
optimization { execution_accelerators { gpu_execution_accelerator [
    {
      name: "tensorrt"
      # pixel_values:1x1 in a comment stays
      parameters { key: "trt_profile_min_shapes" value: "pixel_values:1x3x160x160,boxes:1x4" }
      parameters { key: "trt_profile_opt_shapes" value: "pixel_values:2x3x160x160,boxes:8x4" }
      parameters { key: "trt_profile_max_shapes" value: "pixel_values:4x3x160x160,boxes:64x4" }
    }
] } }
"""
)

SIZE = st.integers(1, 5000)


@given(height=SIZE, width=SIZE, tokens=SIZE, features=SIZE)
def test_sizes_are_what_was_asked_for_and_the_rest_is_as_it_was(
    height: int, width: int, tokens: int, features: int
) -> None:
    changed = set_dims(TEXT, {"pixel_values": (3, height, width), "image_features": (tokens, features)})
    tensors, warmups = read_dims(changed)
    assert tensors == {
        "pixel_values": (3, height, width),
        "boxes": (-1, 4),
        "image_features": (tokens, features),
    }
    assert warmups == {"pixel_values": [(3, height, width)], "boxes": [(3, 4)]}
    dims = re.compile(r"dims: \[[^\]]*\]")
    assert dims.sub("", changed) == dims.sub("", TEXT)


def test_setting_twice_is_setting_once() -> None:
    wanted = {"pixel_values": (3, 768, 768), "boxes": (-1, 4)}
    assert set_dims(set_dims(TEXT, wanted), wanted) == set_dims(TEXT, wanted)


def test_a_warm_up_keeps_its_own_number_on_a_dynamic_axis() -> None:
    _, warmups = read_dims(set_dims(TEXT, {"boxes": (-1, 6)}))
    assert warmups["boxes"] == [(3, 6)]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "leaf"
    (folder / "configs").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(TEXT)
    (folder / "configs" / "embedded.pbtxt").write_text(TEXT.replace("onnxruntime", "python"))
    return folder


def test_all_forms_of_a_model_are_set(model: Path) -> None:
    rewrite(model, {"image_features": (577, 768)})
    for form in ("config.pbtxt", "configs/embedded.pbtxt"):
        assert read_dims((model / form).read_text())[0]["image_features"] == (577, 768)


@given(height=SIZE, width=SIZE)
def test_a_profile_gets_the_sizes_and_keeps_its_batches_and_numbers_of_boxes(height: int, width: int) -> None:
    changed = set_dims(ACCELERATED, {"pixel_values": (3, height, width), "boxes": (-1, 4)})
    for which, batch, boxes in (("min", 1, 1), ("opt", 2, 8), ("max", 4, 64)):
        shapes = f"pixel_values:{batch}x3x{height}x{width},boxes:{boxes}x4"
        assert f'key: "trt_profile_{which}_shapes" value: "{shapes}"' in changed
    assert "# pixel_values:1x1 in a comment stays" in changed
    sizes = re.compile(r"dims: \[[^\]]*\]|:[\dx]+")
    assert sizes.sub("", changed) == sizes.sub("", ACCELERATED)


def test_a_profile_without_a_batch_axis_gets_the_sizes_too() -> None:
    text = ACCELERATED.replace("pixel_values:1x3", "pixel_values:3")
    changed = set_dims(text, {"pixel_values": (3, 768, 640)})
    assert '"pixel_values:3x768x640,boxes:1x4"' in changed
    assert '"pixel_values:2x3x768x640,boxes:8x4"' in changed


@given(st.dictionaries(st.from_regex(r"[a-z_]\w*", fullmatch=True), st.lists(SIZE, min_size=1), min_size=1))
def test_shapes_survive_being_written(shapes: dict[str, list[int]]) -> None:
    assert read_shapes(write_shapes(shapes)) == {name: tuple(sizes) for name, sizes in shapes.items()}


@pytest.mark.parametrize("text", ["", "boxes", "boxes:", "boxes:1xx4", "boxes:1x4,", "boxes:-x4"])
def test_what_are_no_shapes_is_said(text: str) -> None:
    with pytest.raises(ExportError, match="no shapes as"):
        read_shapes(text)


def test_the_profile_of_a_leaf_is_read_after_it_was_set(model: Path) -> None:
    (model / "configs" / "onnxruntime_tensorrt.pbtxt").write_text(ACCELERATED)
    rewrite(model, {"pixel_values": (3, 768, 640)})
    profile = read_profile(model)
    assert list(profile) == ["min", "opt", "max"]
    assert profile["opt"] == {"pixel_values": (2, 3, 768, 640), "boxes": (8, 4)}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            ("pixel_values:2x3x160x160", "pixel_values:2x160"),
            "opt shape of 'pixel_values' is .* not be set to",
        ),
        (("trt_profile_max_shapes", "trt_profile_most_shapes"), "lacks trt_profile_max_shapes"),
        (("boxes:1x4", "boxes: one"), "no shapes as"),
    ],
    ids=["another rank", "a key missing", "no shapes"],
)
def test_a_profile_that_cannot_be_set_is_said(model: Path, damage: tuple[str, str], message: str) -> None:
    (model / "configs" / "onnxruntime_tensorrt.pbtxt").write_text(ACCELERATED.replace(*damage))
    with pytest.raises(ExportError, match=message):
        rewrite(model, {"pixel_values": (3, 768, 640)})


def test_a_leaf_without_a_profile_is_said(model: Path) -> None:
    with pytest.raises(ExportError, match="leaf has no config onnxruntime_tensorrt"):
        read_profile(model)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (('"image_features"', '"features"'), "has no tensor 'image_features'"),
        (("dims: [ 101, 128 ]", "dims: 101 dims: 128"), "could not be set"),
        (("output [", "output [["), "not a model config"),
    ],
    ids=["tensor missing", "written another way", "no config"],
)
def test_what_cannot_be_set_is_said(model: Path, damage: tuple[str, str], message: str) -> None:
    path = model / "configs" / "embedded.pbtxt"
    path.write_text(path.read_text().replace(*damage))
    with pytest.raises(ExportError, match=message) as caught:
        rewrite(model, {"image_features": (577, 768)})
    assert "leaf/configs/embedded.pbtxt" in str(caught.value)
