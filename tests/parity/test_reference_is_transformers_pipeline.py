"""The reference that others are held against is itself transformers' pipeline with the contract's filters."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence2_sam2.training.scenes import draw_scene

pytestmark = pytest.mark.parity

SCENES = [draw_scene(np.random.default_rng(seed), 240, 200).image for seed in range(4)]
OFF: dict[str, Any] = {"area_threshold": 1, "confidence_threshold": 0, "nms_threshold": 1}


@pytest.fixture(scope="module")
def module(reference: Any) -> Any:
    return sys.modules[type(reference).__module__]


def test_objects_are_found(reference: Any) -> None:
    results = [reference.segment(image, **OFF) for image in SCENES]
    assert sum(len(result.labels) for result in results) >= 8
    for result in results:
        assert result.caption
        assert result.masks.shape == (len(result.labels), 200, 240)
        assert result.masks.any(axis=(1, 2)).all()
        assert np.array_equal(result.union(), result.masks.any(axis=0))


@pytest.mark.parametrize("beams", [1, 3])
def test_tokens_are_what_generate_gives(reference: Any, beams: int) -> None:
    result = reference.segment(SCENES[0], num_beams=beams, **OFF)
    inputs = reference.processor(
        text="<MORE_DETAILED_CAPTION>",
        images=Image.fromarray(SCENES[0]),
        return_tensors="pt",
    )
    ids = reference.florence2.generate(**inputs, num_beams=beams)
    assert result.caption_ids == ids[0, 1:].tolist()
    assert result.grounding_ids


def test_the_checkpoints_own_beams_are_the_default(reference: Any) -> None:
    assert reference.florence2.generation_config.num_beams == 3
    default, three = (reference.segment(SCENES[1], num_beams=beams, **OFF) for beams in (None, 3))
    assert default.caption_ids == three.caption_ids
    assert np.array_equal(default.boxes, three.boxes)


def test_boxes_do_not_depend_on_each_other(reference: Any) -> None:
    together, alone = (reference.segment(SCENES[2], one_box_at_a_time=one, **OFF) for one in (False, True))
    assert np.array_equal(together.masks, alone.masks)
    assert np.abs(together.scores - alone.scores).max() < 1e-6


def test_banned_phrases_and_scraps_of_tokens_are_all_that_differs_from_transformers(
    reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = (
        "</s><s>a pot<loc_1><loc_2><loc_3>a cup<loc_100><loc_200><loc_300><loc_400>"
        "The image<loc_0><loc_0><loc_999><loc_999>It<loc_1><loc_1><loc_2><loc_2></s>"
    )
    monkeypatch.setattr(reference, "generate", lambda *_: (answer, []))
    found, _ = reference.locate(np.zeros((200, 100, 3), np.uint8), "<CAPTION_TO_PHRASE_GROUNDING>", "", {})
    assert [(item.label, item.box, item.reason) for item in found] == [
        ("a cup", (10, 40, 30, 80), None),
        ("The image", (0, 0, 99, 199), "banned_phrase"),
        ("It", (0, 0, 0, 0), "banned_phrase"),
    ]


@pytest.mark.parametrize(
    ("box", "threshold", "reason", "clipped"),
    [
        ((0, 0, 51, 100), 0.51, None, (0, 0, 51, 100)),
        ((0, 0, 51, 100), 0.3, "area", (0, 0, 51, 100)),
        ((0, 0, 30, 100), 0.3, None, (0, 0, 30, 100)),
        ((0, 0, 100, 100), 1, None, (0, 0, 100, 100)),
        ((0, 0, 1, 1), 0, "area", (0, 0, 1, 1)),
        ((-50, -50, 10, 10), 0.3, None, (0, 0, 10, 10)),
        ((120, 0, 150, 10), 1, "degenerate_box", (120, 0, 150, 10)),
        ((30, 0, 10, 10), 1, "degenerate_box", (30, 0, 10, 10)),
        ((5, 5, 5, 10), 1, "degenerate_box", (5, 5, 5, 10)),
    ],
)
def test_areas_and_edges(module: Any, box: Any, threshold: float, reason: str | None, clipped: Any) -> None:
    item = module.Found("a thing", box)
    assert (module.clip(item, 100, 100, threshold), item.box) == (reason, clipped)


@pytest.mark.parametrize(
    ("form", "threshold", "kept"),
    [
        ("box", 0.5, "abd"),  # a and b share exactly half
        ("box", 0.49, "ad"),
        ("box", 1, "abcd"),
        ("mask", 0.5, "abd"),
        ("containment", 0.6, "a"),
    ],
)
def test_duplicates(module: Any, form: str, threshold: float, kept: str) -> None:
    def item(label: str, box: tuple[int, int, int, int], score: float) -> Any:
        mask = np.zeros((100, 100), bool)
        mask[box[1] : box[3], box[0] : box[2]] = True
        return module.Found(label, box, score, mask)

    found = [
        item("a", (0, 0, 60, 60), 0.9),
        item("b", (20, 0, 80, 60), 0.9),  # IoU with a: 40 / 80
        item("c", (0, 0, 60, 59), 0.8),
        item("d", (30, 30, 40, 40), 0.7),
    ]
    module.suppress(found, form, threshold)
    assert "".join(item.label for item in found if not item.reason) == kept


def test_pictures_of_the_encoders_size_are_only_normalised(module: Any) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    expected = (rgb / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert np.allclose(module.sam2_pixels(rgb, 32)[0].numpy(), expected.transpose(2, 0, 1), atol=1e-6)
