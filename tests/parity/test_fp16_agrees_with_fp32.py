"""The small checkpoints exported in fp16: each graph agrees with its fp32 form."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from exports import Exported
from PIL import Image

from bench.fullsize.precision import Row, compare

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
def picture() -> np.ndarray:
    return np.asarray(Image.open(ROOT / "docs" / "pictures" / "demo.jpg").convert("RGB"))


@pytest.fixture(scope="module")
def compared(exports: Callable[[str], Exported], picture: np.ndarray) -> list[Row]:
    return compare(exports("fp32").repository, exports("fp16").repository, picture)


def test_every_output_is_near_its_fp32_form(compared: list[Row]) -> None:
    assert {row.output for row in compared} == set(TOLERANCES)
    for row in compared:
        assert row.relative <= TOLERANCES[row.output], row
    # float16 shows: else nothing was rounded
    assert max(row.relative for row in compared) > 1e-4


def test_few_boxes_get_another_of_the_four_masks(compared: list[Row]) -> None:
    masks = next(row for row in compared if row.output == "mask_logits")
    others = re.search(r"; (\d+) of (\d+) boxes answered with another candidate", masks.agreement)
    assert others is None or int(others[1]) <= 0.1 * int(others[2]), masks.agreement


def test_tokens_are_those_of_fp32(compared: list[Row]) -> None:
    logits = next(row for row in compared if row.output == "logits")
    assert logits.agreement == "best token equal in 24 of 24 steps"


def test_weights_take_two_bytes(exports: Callable[[str], Exported]) -> None:
    """As in the fp32 export of this checkpoint, whose weights are halves already; four would be twice as much."""
    sizes = {
        precision: sum(file.stat().st_size for file in exports(precision).repository.rglob("*.onnx"))
        for precision in ("fp32", "fp16")
    }
    assert sizes["fp16"] < 1.1 * sizes["fp32"]
