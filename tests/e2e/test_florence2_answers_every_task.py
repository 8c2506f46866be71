"""The public `florence2` model: any task on a picture, with the tokens that transformers generates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from calls import infer
from PIL import Image
from transformers import Florence2ForConditionalGeneration, Florence2Processor
from tritonclient.utils import InferenceServerException

from florence2_sam2.postprocess import box_iou_matrix
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.training.demo import demo_scene

pytestmark = [pytest.mark.server, pytest.mark.parity]

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "models" / "small" / "florence2"
PICTURE = ROOT / "docs" / "pictures" / "demo.jpg"
THINGS = demo_scene().objects  # what is really in the picture
ONE, OTHER = [t for t in THINGS if t.phrase.startswith("a")][:2]

REGION = "<loc_330><loc_250><loc_640><loc_580>"
TASKS = {
    "<OCR>": "",
    "<OCR_WITH_REGION>": "",
    "<CAPTION>": "",
    "<DETAILED_CAPTION>": "",
    "<MORE_DETAILED_CAPTION>": "",
    "<OD>": "",
    "<DENSE_REGION_CAPTION>": "",
    "<REGION_PROPOSAL>": "",
    "<CAPTION_TO_PHRASE_GROUNDING>": f"{ONE.phrase} with {OTHER.phrase}",
    "<REFERRING_EXPRESSION_SEGMENTATION>": ONE.phrase,
    "<REGION_TO_SEGMENTATION>": REGION,
    "<OPEN_VOCABULARY_DETECTION>": OTHER.phrase,
    "<REGION_TO_CATEGORY>": REGION,
    "<REGION_TO_DESCRIPTION>": REGION,
    "<REGION_TO_OCR>": REGION,
}


def ask(server: EmbeddedServer, **fields: str | bytes | np.ndarray) -> dict[str, Any]:
    sent = {name: value.encode() if isinstance(value, str) else value for name, value in fields.items()}
    answer = infer(server.grpc_address, "florence2", sent)
    return {
        "text": answer["text"][0].decode(),
        "regions": json.loads(answer["regions"][0]),
        "token_ids": answer["token_ids"].tolist(),
        "info": json.loads(answer["info"][0]),
    }


@pytest.fixture(scope="module")
def transformers_says() -> Any:
    torch.set_num_threads(1)  # a small model: more threads only wait for each other
    processor = Florence2Processor.from_pretrained(CHECKPOINT)
    model = Florence2ForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    picture = Image.open(PICTURE).convert("RGB")

    def generate(prompt: str, **settings: Any) -> list[int]:
        inputs = processor(images=picture, text=prompt, return_tensors="pt")
        with torch.inference_mode():
            ids = model.generate(**inputs, **settings)[0]
        return [int(token) for token in ids[1:]]

    return generate


def test_the_table_has_every_task() -> None:
    manifest = json.loads((ROOT / "model_repository/florence2/1/manifest.json").read_text())
    assert set(TASKS) == {*manifest["prompts"], *manifest["prompts_with_text"]}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_gives_the_tokens_of_transformers(
    server: EmbeddedServer, transformers_says: Any, task: str
) -> None:
    answer = ask(
        server, image=PICTURE.read_bytes(), task=task, text=TASKS[task], options='{"max_new_tokens": 40}'
    )
    expected = transformers_says(task + TASKS[task], max_new_tokens=40)
    assert answer["token_ids"] == expected
    assert answer["info"]["model"]["sha256"]


@pytest.mark.parametrize("beams", [1, 2, 5])
def test_beams_can_be_chosen(server: EmbeddedServer, transformers_says: Any, beams: int) -> None:
    options = json.dumps({"num_beams": beams, "max_new_tokens": 100})
    answer = ask(server, image=PICTURE.read_bytes(), options=options)
    expected = transformers_says(
        "<MORE_DETAILED_CAPTION>", num_beams=beams, early_stopping=beams > 1, max_new_tokens=100
    )
    assert answer["token_ids"] == expected
    assert ONE.kind in answer["text"]


def test_grounded_phrases_have_boxes_in_pixels(server: EmbeddedServer) -> None:
    options = json.dumps({"phrases": [OTHER.phrase]})
    answer = ask(server, image=PICTURE.read_bytes(), task="<CAPTION_TO_PHRASE_GROUNDING>", options=options)
    (region,) = [region for region in answer["regions"] if not region["dropped"]]
    assert region["label"] == OTHER.phrase
    assert box_iou_matrix([region["box"]], [OTHER.box])[0, 0] > 0.6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "image: exactly one of image and image_features"),
        ({"image": PICTURE, "task": "<FLY>"}, "task"),
        ({"image": b"x"}, "image: is no picture"),
        ({"image": PICTURE, "task": "<CAPTION>", "text": "a cat"}, "text"),
        ({"image": PICTURE, "task": "<CAPTION_TO_PHRASE_GROUNDING>"}, "text"),
        ({"image": PICTURE, "task": "<REGION_TO_CATEGORY>", "text": "the left one"}, "text"),
        ({"image": PICTURE, "options": '{"beams": 3}'}, "options"),
        ({"image": PICTURE, "options": '{"num_beams": 99}'}, "options.num_beams"),
        ({"image": PICTURE, "task": b"\xff"}, "task"),
        ({"image": PICTURE, "image_size": np.array([3, 4], np.int32)}, "image_size"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_mistakes_are_named(server: EmbeddedServer, fields: dict[str, Any], message: str) -> None:
    sent = {name: value.read_bytes() if isinstance(value, Path) else value for name, value in fields.items()}
    with pytest.raises(InferenceServerException) as refused:
        ask(server, **sent)
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert refused.value.message().startswith(message)
