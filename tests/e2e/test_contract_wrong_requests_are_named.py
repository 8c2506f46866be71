"""A caller's mistake in an option is INVALID_ARGUMENT with its name (for all other input: `test_bad_input_*`)."""

from __future__ import annotations

from typing import Any

import pytest
from bad_input import Caller, Inputs, refused
from drawn import SCENE, segment

from florence2_sam2.client import InvalidRequest
from florence2_sam2.server.launch.embedded import EmbeddedServer

pytestmark = pytest.mark.server


def options(**values: Any) -> Inputs:
    return {"image": SCENE, "options": values}


CASES: list[tuple[str, Inputs, str]] = [
    ("an unknown format", options(formats=["svg"]), "options.formats"),
    ("formats as a word", options(formats="rle"), "options.formats"),
    ("an unknown view", options(view="tiny"), "options.view"),
    ("an unknown nms", options(nms="soft"), "options.nms"),
    ("an unknown task", options(task="ocr"), "options.task"),
    ("no beams", options(num_beams=0), "options.num_beams"),
    ("half a beam", options(num_beams=1.5), "options.num_beams"),
    ("more beams than there are", options(num_beams=9), "options.num_beams"),
    ("no tokens", options(max_new_tokens=0), "options.max_new_tokens"),
    ("more tokens than the model has positions", options(max_new_tokens=705), "options.max_new_tokens"),
    ("a flag as a number", options(normalized=1), "options.normalized"),
    ("no phrase", options(phrases=[]), "options.phrases"),
    ("a blank phrase", options(phrases=["  "]), "options.phrases"),
    ("phrases as a word", options(phrases="a dog"), "options.phrases"),
    ("too many phrases", options(phrases=["a dog"] * 101), "options.phrases"),
    (
        "more phrases than the model has positions",
        options(phrases=["a dog and a cat"] * 60),
        "options.phrases",
    ),
    ("no tiles", options(tiles=0), "options.tiles"),
    ("too many tiles", options(tiles=5), "options.tiles"),
    ("an unknown priority", options(priority="high"), "options.priority"),
    ("caption and phrases", {**options(phrases=["a dog"]), "caption": "a dog"}, "options"),
    ("caption and boxes", {**options(boxes=[]), "caption": "a dog"}, "options"),
    ("phrases and boxes", options(phrases=["a dog"], boxes=[]), "options"),
    ("caption and detection", {**options(task="detection"), "caption": "a dog"}, "options"),
    ("boxes and detection", options(task="detection", boxes=[]), "options"),
]


@pytest.mark.parametrize(("inputs", "field"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_answer_names_the_option(caller: Caller, inputs: Inputs, field: str) -> None:
    """Over gRPC and HTTP; `Caller` looks at what else the message says."""
    refused(caller.both(inputs), field)


def test_the_client_says_which_field(server: EmbeddedServer) -> None:
    with pytest.raises(InvalidRequest) as caught:
        segment(server, area_threshold=1.5)
    assert caught.value.field == "area_threshold"
    with pytest.raises(InvalidRequest) as caught:
        segment(server, boxes=[[0, 0, 1]])
    assert caught.value.field == "options.boxes[0]"


def test_a_wrong_request_leaves_the_server_well(server: EmbeddedServer) -> None:
    assert segment(server, boxes=[[20, 20, 80, 80]]).width == 200
