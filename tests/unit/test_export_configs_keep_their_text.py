"""Export sets sizes in Triton's configs and touches nothing else: comments, order and other numbers stay."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence2_sam2.export.configs import read_dims, rewrite, set_dims
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
