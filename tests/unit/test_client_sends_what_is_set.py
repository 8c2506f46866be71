"""Only what the caller sets travels, each setting in its own tensor or in `options`."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from kserve_peer import serving

from florence2_sam2.client import Segmenter


def sent(image: Any = b"picture", **settings: Any) -> dict[str, tuple[str, list[int], bytes]]:
    with serving() as peer, Segmenter(peer.address) as segmenter:
        segmenter.segment(image, **settings)
        assert [output.name for output in peer.received[0].outputs] == (
            ["result", "mask_png"] if settings.get("output_mask") else ["result"]
        )
        assert not peer.received[0].parameters
        return peer.inputs()


def test_nothing_set_is_nothing_sent_but_for_the_run_lengths() -> None:
    options = {"options": ("BYTES", [1], b'{"formats": ["rle"]}')}
    assert sent() == {"image": ("BYTES", [1], b"picture")} | options
    assert sent(caption=None, area_threshold=None, formats=None) == sent()
    url = "data:image/png;base64,AA"
    assert sent(url) == {"image_url": ("BYTES", [1], url.encode())} | options
    assert sent(formats=()) == {"image": ("BYTES", [1], b"picture")}
    assert "options" not in sent(output_mask=True)


def test_bytes_arrive_whole() -> None:
    assert sent(b"\0ends in NULs\0\0")["image"][2] == b"\0ends in NULs\0\0"


@pytest.mark.parametrize(
    "name", ["area_threshold", "confidence_threshold", "nms_threshold", "polygon_precision"]
)
@pytest.mark.parametrize("value", [0, 1, 0.3, np.float64(0.25), np.int64(1), float("nan")])
def test_numbers_are_fp32(name: str, value: float) -> None:
    datatype, shape, raw = sent(**{name: value})[name]
    assert (datatype, shape) == ("FP32", [1])
    assert np.array_equal(np.frombuffer(raw, np.float32), np.array([value], np.float32), equal_nan=True)


@pytest.mark.parametrize("value", [True, False, np.True_])
def test_output_mask_is_a_boolean(value: bool) -> None:
    assert sent(output_mask=value)["output_mask"] == ("BOOL", [1], bytes([bool(value)]))


def test_a_caption_is_utf8() -> None:
    assert sent(caption="ein Käfer 🪲")["caption"] == ("BYTES", [1], "ein Käfer 🪲".encode())


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("formats", ("rle", "coco"), ["rle", "coco"]),
        ("view", "compact", "compact"),
        ("nms", "mask", "mask"),
        ("task", "detection", "detection"),
        ("phrases", ["café", "dog"], ["café", "dog"]),
        ("boxes", [[1, 2, 3, 4]], [[1, 2, 3, 4]]),
        ("boxes", np.array([[1, 2, 3, 4.5]], np.float32), [[1, 2, 3, 4.5]]),
        ("boxes", [], []),
        ("num_beams", 3, 3),
        ("num_beams", np.int64(3), 3),
        ("max_new_tokens", 10, 10),
        ("invert_mask", True, True),
        ("invert_mask", False, False),
        ("normalized", True, True),
        ("tiles", 2, 2),
        ("reduced_decode", True, True),
        ("priority", "bulk", "bulk"),
    ],
)
def test_everything_else_is_an_option(name: str, value: Any, expected: Any) -> None:
    inputs = sent(**{"formats": (), name: value})
    assert inputs.keys() == {"image", "options"}
    assert inputs["options"][:2] == ("BYTES", [1])
    assert json.loads(inputs["options"][2]) == {name: expected}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"area_treshold": 0.5}, "no setting 'area_treshold'"),
        ({"area_threshold": "0.5"}, "area_threshold: a number"),
        ({"nms_threshold": True}, "nms_threshold: a number"),
        ({"polygon_precision": [0.1]}, "polygon_precision: a number"),
        ({"output_mask": "false"}, "output_mask: True or False"),
        ({"output_mask": 1}, "output_mask: True or False"),
        ({"caption": b"a dog"}, "caption: a string"),
        ({"phrases": "dog"}, r"phrases: a list of strings is wanted; write \['dog'\]"),
        ({"formats": "rle"}, "formats: a list"),
    ],
)
def test_wrong_types_are_refused_before_anything_is_sent(settings: dict[str, Any], words: str) -> None:
    with serving() as peer, Segmenter(peer.address) as segmenter:
        with pytest.raises(TypeError, match=words):
            segmenter.segment(b"picture", **settings)
        assert peer.received == []
