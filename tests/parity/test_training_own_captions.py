"""What the model says of itself in training is what it says afterwards, and is grounded on what is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from florence2_sam2.training.captions import CAPTION_PROMPT, Mention, answer
from florence2_sam2.training.evaluate import Florence2
from florence2_sam2.training.florence2 import SIDE
from florence2_sam2.training.images import to_pixels
from florence2_sam2.training.own_captions import heard, own_captions
from florence2_sam2.training.scenes import draw_scene
from florence2_sam2.training.vocabulary import TABLE, TABLE_PHRASE

pytestmark = pytest.mark.parity

BOX = np.array([[0.1, 0.2, 0.3, 0.4]])
BOXES = np.array([[0.5, 0.5, 0.6, 0.6], [0.7, 0.7, 0.8, 0.8]])


def test_own_captions_are_those_of_generation(small_checkpoints: Path) -> None:
    asked = Florence2(small_checkpoints / "florence2", 1)
    rng = np.random.default_rng(5)
    scenes = [draw_scene(rng, SIDE) for _ in range(6)]
    with torch.no_grad():
        pixels = to_pixels([scene.image for scene in scenes])
        features = asked.model.model.get_image_features(pixels).pooler_output
    said = own_captions(asked.model, asked.processor.tokenizer, features)
    assert said == asked.ask(scenes, [CAPTION_PROMPT] * len(scenes))
    assert len(set(said)) == len(scenes)
    assert asked.model.generation_config.num_beams == 3, "it is exported with its own settings"


def test_what_is_there_gets_its_boxes() -> None:
    mentions = [
        Mention("a red cup", BOX, "cup"),
        Mention("two blue cars", BOXES, "car"),
        Mention(TABLE_PHRASE, BOX, TABLE),
    ]
    said = (
        f"The image shows three blue cars next to a red apple and a large red cup on {TABLE_PHRASE}."
        " The background is a red ball."
    )
    understood = heard(said, mentions)
    assert [(m.phrase, len(m.boxes)) for m in understood] == [
        ("three blue cars", 2),
        ("a red apple", 0),
        ("a large red cup", 1),
        ("a red ball", 0),
        (TABLE_PHRASE, 1),
    ]
    assert answer(understood).startswith("three blue cars<loc_500><loc_500><loc_600><loc_600><loc_700>")
    assert "apple" not in answer(understood)


def test_what_is_said_twice_stands_for_its_things_once() -> None:
    understood = heard("a red cup next to a red cup", [Mention("a red cup", BOX, "cup")])
    assert [len(m.boxes) for m in understood] == [1, 0]


def test_a_plural_of_one_is_no_phrase_of_ours() -> None:
    assert [len(m.boxes) for m in heard("a red cups", [Mention("a red cup", BOX, "cup")])] == [0]
