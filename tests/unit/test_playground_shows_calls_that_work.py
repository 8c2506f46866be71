"""The calls that the page shows mean what its controls are set to; its defaults are the server's."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence2_sam2.client import CannotConnect, CaptionText, Settings, Started
from florence2_sam2.playground.controls import (
    FORMS,
    INVERTED,
    NMS_FORMS,
    Controls,
    curl_call,
    name_of,
    python_call,
)
from florence2_sam2.playground.shown import Shown, document_of
from florence2_sam2.server.segment import request

controls = st.builds(
    Controls,
    caption=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30),
    area_threshold=st.floats(0, 1),
    nms=st.sampled_from(NMS_FORMS),
    form=st.sampled_from(FORMS),
)


def test_defaults_are_the_servers() -> None:
    plain = Controls()
    assert {name: getattr(plain, name) for name in request.THRESHOLDS} == request.THRESHOLDS
    assert plain.polygon_precision == request.POLYGON_PRECISION
    assert plain.nms == request.Options().nms
    assert NMS_FORMS == request.NMS_FORMS
    assert plain.changed() == {}


def test_only_what_is_changed_is_written() -> None:
    plain = python_call(Controls(), "grpc://here:1", "a b.jpg")
    assert "segmenter.segment('a b.jpg')" in plain
    changed = Controls(caption=" a 'cat' ", area_threshold=1.0, form=INVERTED)
    assert (
        "'a b.jpg', caption=\"a 'cat'\", area_threshold=1.0, output_mask=True, invert_mask=True)"
        in python_call(changed, "grpc://here:1", "a b.jpg")
    )


class Recorder:
    """Takes the client's place in the Python that the page shows."""

    calls: ClassVar[list[tuple[str, str, dict[str, Any]]]] = []

    def __init__(self, url: str) -> None:
        self.url = url

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None: ...

    def segment(self, picture: str, **settings: Any) -> Any:
        self.calls.append((self.url, picture, settings))
        return type("Result", (), {"objects": (), "mask_png": b""})


@given(
    controls,
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=20),
)
def test_the_python_call_makes_that_call(chosen: Controls, name: str) -> None:
    source = python_call(chosen, "grpc://here:1", name)
    source = source.replace("from florence2_sam2.client import Segmenter\n", "").replace(
        'open("mask.png", "wb")', "Sink()"
    )
    Recorder.calls.clear()
    sink = type("Sink", (), {"write": lambda self, data: None})
    exec(source, {"Segmenter": Recorder, "Sink": sink})
    assert Recorder.calls == [("grpc://here:1", name, chosen.changed())]
    assert chosen.changed().keys() <= Settings.__annotations__.keys()


@pytest.mark.parametrize("caption", ["a cat", 'it\'s "100 %" \\n $HOME `id` é犬', "%s %d", "\\"])
def test_the_curl_call_sends_that_json(tmp_path: Path, caption: str) -> None:
    chosen = Controls(caption=caption, area_threshold=0.25, nms="mask", form=INVERTED)
    (tmp_path / "it's.jpg").write_bytes(b"\xff\xd8")
    shell = f'curl() {{ printf "%s\\n" "$*"; cat; }}\n{curl_call(chosen, "http://here:2", "it" + chr(39) + "s.jpg")}'
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, check=True, capture_output=True, text=True)
    words, body = done.stdout.split("\n", 1)
    assert words == "-s http://here:2/v2/models/segment_http/generate -d @-"
    sent = json.loads(body)
    assert json.loads(sent.pop("options")) == {"nms": "mask", "invert_mask": True}
    assert sent == {"image_base64": "/9g=", "caption": caption, "area_threshold": 0.25, "output_mask": True}


def test_names() -> None:
    assert name_of(None) == "picture.jpg"
    assert name_of("/tmp/x/a b.png") == "a b.png"


def test_a_failure_takes_the_place_of_what_was_shown() -> None:
    shown = Shown("a.jpg")
    assert shown.take(Started(4, 3))
    assert shown.take(CaptionText("A cat"))
    assert shown.caption == "A cat …"
    shown.fail(CannotConnect("nobody there"))
    assert (shown.status, shown.caption, shown.image) == ("⚠ nobody there", "", None)


def test_the_document_is_the_answer_with_a_short_mask() -> None:
    raw = {
        "objects": [{"label": "é"}, {"label": "b"}],
        "filtered": [],
        "mask_url": "data:" + "x" * 500,
        "caption": "y" * 500,
    }
    read = json.loads(document_of(raw))
    assert read["objects"] == raw["objects"]
    assert read["caption"] == raw["caption"]
    assert read["mask_url"].endswith("… (505 characters)")
