"""The small checkpoints exported in fp16: each graph agrees with its fp32 form, and a server on them finds the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.fullsize.precision import Row, compare
from florence2_sam2.client import Segmenter
from florence2_sam2.export.run import export
from florence2_sam2.postprocess.rle import decode_rle
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.training.scenes import draw_scene

pytestmark = pytest.mark.parity

ROOT = Path(__file__).parents[2]

# Largest error of a graph, as a share of the output's largest value. float16 is good to 5e-4, and roundings add up.
TOLERANCES = {
    "image_features": 5e-3,
    "cross_key": 3e-3,
    "cross_value": 3e-3,
    "logits": 3e-3,
    "new_key": 3e-3,
    "new_value": 3e-3,
    "image_embeddings": 5e-3,
    "high_res_features_0": 5e-3,
    "high_res_features_1": 5e-3,
    "mask_logits": 1e-2,
    "scores": 2e-3,
}


@pytest.fixture(scope="module")
def repositories(small_checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("precisions")
    for precision in ("fp32", "fp16"):
        export(
            folder / precision,
            str(small_checkpoints / "florence2"),
            str(small_checkpoints / "sam2"),
            precision=precision,
            report=lambda text: None,
        )
    return {precision: folder / precision for precision in ("fp32", "fp16")}


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.asarray(Image.open(ROOT / "docs" / "pictures" / "demo.jpg").convert("RGB"))


@pytest.fixture(scope="module")
def compared(repositories: dict[str, Path], picture: np.ndarray) -> list[Row]:
    return compare(repositories["fp32"], repositories["fp16"], picture)


def test_every_output_is_near_its_fp32_form(compared: list[Row]) -> None:
    assert {row.output for row in compared} == set(TOLERANCES)
    for row in compared:
        assert row.relative <= TOLERANCES[row.output], row
    # float16 shows: else nothing was rounded
    assert max(row.relative for row in compared) > 1e-4


def test_tokens_are_those_of_fp32(compared: list[Row]) -> None:
    logits = next(row for row in compared if row.output == "logits")
    assert logits.agreement == "best token equal in 24 of 24 steps"


def test_weights_take_two_bytes(repositories: dict[str, Path]) -> None:
    """As in the fp32 export of this checkpoint, whose weights are halves already; four would be twice as much."""
    sizes = {
        precision: sum(file.stat().st_size for file in folder.rglob("*.onnx"))
        for precision, folder in repositories.items()
    }
    assert sizes["fp16"] < 1.1 * sizes["fp32"]


@pytest.mark.server
def test_a_server_on_fp16_answers_the_same_objects(repositories: dict[str, Path]) -> None:
    rgb = draw_scene(np.random.default_rng(41)).image
    answers = {}
    for precision, repository in repositories.items():
        with EmbeddedServer(repository) as server, Segmenter(server.grpc_address) as segmenter:
            answers[precision] = segmenter.segment(rgb, area_threshold=1, formats=["rle"])
    wide, narrow = answers["fp32"], answers["fp16"]
    assert narrow.models["sam2"]["precision"] == "fp16"
    assert narrow.caption == wide.caption
    assert [item.label for item in narrow.objects] == [item.label for item in wide.objects]
    assert wide.objects
    for one, other in zip(wide.objects, narrow.objects, strict=True):
        np.testing.assert_allclose(other.box, one.box, atol=0.002 * max(rgb.shape))  # two location bins
        assert other.score == pytest.approx(one.score, abs=0.01)
        a, b = decode_rle(one.rle or {}), decode_rle(other.rle or {})
        assert (a & b).sum() / (a | b).sum() > 0.98
