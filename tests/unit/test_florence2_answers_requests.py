"""`Florence2`: one call from features and a task to text and regions, and a refusal that names each wrong field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from florence2_sam2.server import manifest
from florence2_sam2.server.errors import Cancelled, InvalidRequest, Overloaded
from florence2_sam2.server.florence2 import Florence2, Florence2Answer
from florence2_sam2.server.florence2_options import Florence2Options
from florence2_sam2.server.generation.device_memory import borrowed
from florence2_sam2.server.generation.waiting import Completed

FOLDER = Path(__file__).resolve().parents[2] / "model_repository" / "florence2" / "1"
SPEC = manifest.Florence2.read(FOLDER)
CAPTION, GROUNDING, OD = "<MORE_DETAILED_CAPTION>", "<CAPTION_TO_PHRASE_GROUNDING>", "<OD>"
TOKENIZER = Tokenizer.from_file(str(FOLDER / SPEC.tokenizer))
SHAPE = (SPEC.image_tokens, SPEC.feature_dim)
FEATURES = np.random.default_rng(0).normal(0, 1, SHAPE).astype(np.float32)
POSITIONS = SPEC.decoder.decoder_positions


class OnGpu:
    """What onnxruntime says of features in a GPU's memory."""

    def data_type(self) -> str:
        return "tensor(float)"

    def shape(self) -> list[int]:
        return [1, *SHAPE]

    def device_name(self) -> str:
        return "Cuda"


@pytest.fixture(scope="module")
def florence2() -> Iterator[Florence2]:
    served = Florence2(FOLDER, SPEC, max_rows=6)
    yield served
    served.close()


def test_a_caption(florence2: Florence2) -> None:
    answer = florence2.submit(FEATURES[None], CAPTION).result(60)
    assert answer.text
    assert "<" not in answer.text
    assert answer.regions == []
    assert answer.token_ids.dtype == np.int64
    assert answer.token_ids[-1] == SPEC.tokens.eos
    info = json.loads(json.dumps(answer.info()))
    assert info["generated_tokens"] == len(answer.token_ids)
    assert set(info["timings_ms"]) == {"waiting", "encoding", "decoding"}
    assert info["log_probability"] < 0


def test_phrases_take_the_place_of_text(florence2: Florence2) -> None:
    options = Florence2Options(phrases=("a red star", "a blue heart"))
    answer = florence2.submit(FEATURES, GROUNDING, image_size=(100, 100), options=options).result(60)
    assert all("and>" not in region.label for region in answer.regions)


def test_limits_are_the_callers(florence2: Florence2) -> None:
    options = Florence2Options(num_beams=2, max_new_tokens=7, min_new_tokens=7)
    assert len(florence2.submit(FEATURES, CAPTION, options=options).result(60).token_ids) == 7


def test_features_in_the_devices_memory_are_features(florence2: Florence2) -> None:
    """The device is the CPU here."""
    answer = florence2.submit(borrowed(FEATURES[None]), CAPTION).result(60)
    assert answer.token_ids.tolist() == florence2.submit(FEATURES, CAPTION).result(60).token_ids.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "<NO>"}, "task: there is no task"),
        ({"text": "a cat"}, "text: .* takes none"),
        (
            {"image_features": FEATURES[:5]},
            rf"image_features: must be FP32 \[{SHAPE[0]}, {SHAPE[1]}\], not float32 \[5,",
        ),
        ({"image_features": FEATURES.astype(np.float64)}, "image_features: must be FP32 .*, not float64"),
        ({"image_features": np.stack([FEATURES, FEATURES])}, "image_features: must be FP32"),
        ({"image_features": np.zeros((), np.float32)}, "image_features: must be FP32"),
        (
            {"image_features": borrowed(FEATURES)},
            rf"image_features: must be FP32 \[1, {SHAPE[0]}, {SHAPE[1]}\]",
        ),
        (
            {"image_features": borrowed(FEATURES[None].astype(np.float64))},
            r"image_features: must be FP32 .*, not tensor\(double\)",
        ),
        (
            {"image_features": OnGpu()},
            "image_features: lies in Cuda's memory, and Florence-2 decodes on the cpu",
        ),
        ({"image_features": FEATURES * np.float32(np.inf)}, "image_features: must be finite"),
        ({"task": OD}, "image_size: is needed for <OD>"),
        ({"task": OD, "image_size": (0, 5)}, "image_size: must be width and height"),
        (
            {"options": Florence2Options(max_new_tokens=POSITIONS + 1)},
            rf"options\.max_new_tokens: {POSITIONS} is the most",
        ),
        (
            {"options": Florence2Options(max_new_tokens=5, min_new_tokens=6)},
            r"options\.min_new_tokens: must not exceed max_new_tokens, 5",
        ),
        (
            {"options": Florence2Options(num_beams=7)},
            r"options\.num_beams: this server decodes 6 beams at most",
        ),
    ],
)
def test_mistakes_are_named(florence2: Florence2, change: dict[str, Any], message: str) -> None:
    request = {"image_features": FEATURES, "task": CAPTION, **change}
    with pytest.raises(InvalidRequest, match=f"^{message}"):
        florence2.submit(**request)


def test_a_cut_text_is_told(florence2: Florence2) -> None:
    options = Florence2Options(num_beams=1, max_new_tokens=2)
    answer = florence2.submit(FEATURES, GROUNDING, "A red star. " * 500, (10, 10), options).result(60)
    assert answer.warnings[0].startswith("text: cut from")


def test_a_cancelled_request_says_so(florence2: Florence2) -> None:
    with pytest.raises(Cancelled):
        florence2.submit(FEATURES, CAPTION, cancelled=lambda: True).result(60)
    assert florence2.submit(FEATURES, CAPTION).result(60).text


class Scripted:
    """Stands for the engine, so that the model says what the test wants read."""

    def __init__(self, token_ids: list[int]) -> None:
        self.completed = Completed(token_ids, -1.0, [-0.5] * len(token_ids), 1, 0.0, 0.0, 0.0)

    def submit(self, *_: Any) -> Future[Completed]:
        future: Future[Completed] = Future()
        future.set_result(self.completed)
        return future

    def close(self) -> None:
        pass


def read(
    florence2: Florence2,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    text: str,
    ids: list[int],
    width: int = 1000,
) -> Florence2Answer:
    monkeypatch.setattr(florence2, "_engine", Scripted([SPEC.tokens.bos, *ids, SPEC.tokens.eos]))
    return florence2.submit(FEATURES, task, text, (width, 1000)).result(1)


def location(*bins: int) -> list[int]:
    return [SPEC.tokens.location_first + number for number in bins]


def words(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize(("width", "box"), [(1000, (100, 200, 300, 400)), (2000, (201, 200, 601, 400))])
def test_regions_are_in_pixels_of_the_picture(
    florence2: Florence2, monkeypatch: pytest.MonkeyPatch, width: int, box: tuple[int, ...]
) -> None:
    ids = [*words("a star"), *location(100, 200, 300, 400)]
    answer = read(florence2, monkeypatch, OD, "", ids, width)
    assert [(region.label, region.box, region.dropped) for region in answer.regions] == [
        ("a star", box, None)
    ]


def test_structure_in_a_caption_is_removed_and_told(
    florence2: Florence2, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [*words("a star"), *location(3)]
    answer = read(florence2, monkeypatch, CAPTION, "", ids)
    assert answer.text == "a star"
    assert answer.warnings == ["removed from the text: <loc_3>"]


def test_banned_phrases_of_the_checkpoint_are_marked(
    florence2: Florence2, monkeypatch: pytest.MonkeyPatch
) -> None:
    banned = SPEC.banned_phrases[0]
    monkeypatch.setattr(florence2, "_manifest", replace(SPEC, banned_phrases=(banned.upper(),)))
    ids = [*words(banned), *location(1, 2, 3, 4)]
    answer = read(florence2, monkeypatch, GROUNDING, "a star", ids)
    assert [(region.label, region.dropped) for region in answer.regions] == [(banned, "banned_phrase")]
    assert answer.text == f"{banned}<loc_1><loc_2><loc_3><loc_4>"


def test_after_closing_requests_are_refused() -> None:
    served = Florence2(FOLDER, SPEC, max_rows=3)
    served.close()
    with pytest.raises(Overloaded, match="shutting down"):
        served.submit(FEATURES, CAPTION)
