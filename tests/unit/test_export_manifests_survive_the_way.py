"""A manifest is read as it was written, and a damaged one is refused with what to do."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from florence2_sam2.server.manifest import (
    FORMAT,
    AttentionForm,
    Decoder,
    Exported,
    Florence2,
    Generation,
    ImageSpec,
    ManifestError,
    Parity,
    Plan,
    Sam2,
    Source,
    Tokens,
)

IMAGE = ImageSpec(768, 640, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic")
SAM2 = Sam2(
    Source("sam2.1-hiera-tiny", "ab" * 32, "f245b47be73d8858fb7543a8b9c1c720d9f98779"),
    "fp16",
    18,
    IMAGE,
    mask_size=256,
    exported_with={"torch": "2.9.0"},
    files={"sam2_image_encoder/1/model.onnx": "cd" * 32},
    parity={"sam2_image_encoder/1/model.onnx:image_embeddings": Parity(1.5e-6, 1e-4)},
    attention={"sam2_image_encoder/1/model.onnx": AttentionForm("parts", {"fused": 12.5, "parts": 11.0})},
    plans={"sam2_image_encoder/1/model.plan": Plan("11.1.0", "NVIDIA L4", "8.9")},
)
FLORENCE2 = Florence2(
    Source("Florence-2-base", "ef" * 32),
    "fp32",
    18,
    IMAGE,
    image_tokens=577,
    feature_dim=768,
    tokenizer="tokenizer.json",
    tokens=Tokens(0, 1, 2, 2, 51289, 50269, 1000, 51288, 51328),
    decoder=Decoder(6, 12, 64, 1024, 1024),
    generation=Generation(3, None, 0, 3, 0, 2, "never", 0.8),
    prompts={"<OD>": "Locate the objects with category name in the image."},
    prompts_with_text={"<OPEN_VOCABULARY_DETECTION>": "Locate {input} in the image."},
    answers={"<OD>": "description_with_bboxes"},
    banned_phrases=("it", "café", "图像"),
    decoder_weights="int8",
)


@pytest.mark.parametrize("manifest", [FLORENCE2, SAM2], ids=["florence2", "sam2"])
def test_what_is_written_is_read(tmp_path: Path, manifest: Exported) -> None:
    manifest.write(tmp_path)
    assert type(manifest).read(tmp_path) == manifest


def test_answers_name_what_computed_them() -> None:
    assert FLORENCE2.identity() == {
        "checkpoint": "Florence-2-base",
        "sha256": "ef" * 32,
        "precision": "fp32",
        "decoder_weights": "int8",
    }
    assert set(SAM2.identity()) == {"checkpoint", "sha256", "precision"}


def test_without_plans_a_manifest_is_one_from_before_there_were_any(tmp_path: Path) -> None:
    FLORENCE2.write(tmp_path)
    assert "plans" not in json.loads((tmp_path / "manifest.json").read_text())
    assert Florence2.read(tmp_path).plans == {}


def test_a_manifest_from_before_there_were_8_bits(tmp_path: Path) -> None:
    FLORENCE2.write(tmp_path)
    path = tmp_path / "manifest.json"
    body = json.loads(path.read_text())
    del body["decoder_weights"]
    path.write_text(json.dumps(body))
    assert Florence2.read(tmp_path) == dataclasses.replace(FLORENCE2, decoder_weights="float")


def without(name: str) -> Any:
    def change(body: dict[str, Any]) -> None:
        del body[name]

    return change


def having(**values: Any) -> Any:
    def change(body: dict[str, Any]) -> None:
        body.update(values)

    return change


@pytest.mark.parametrize(
    "change",
    [
        without("tokens"),
        without("format"),
        having(format=FORMAT - 1),
        having(format=FORMAT + 1),
        having(kind="Sam2"),
        having(surprise=1),
        having(image={"height": 3}),
        having(decoder={}),
        having(decoder=None),
        having(decoder=[1, 2]),
        having(parity={"x": {"max_abs_error": 1}}),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, change: Any) -> None:
    FLORENCE2.write(tmp_path)
    path = tmp_path / "manifest.json"
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))
    with pytest.raises(ManifestError, match="export again"):
        Florence2.read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"null"], ids=repr)
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ManifestError):
        Sam2.read(tmp_path)


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="is missing"):
        Sam2.read(tmp_path)
