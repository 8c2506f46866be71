"""A picture that was answered about before is neither decoded nor outlined again, unless something needs it."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.segment import answer, loading, pipeline, shapes
from florence2_sam2.server.segment.models import Region
from florence2_sam2.server.segment.service import SegmentService
from florence2_sam2.server.settings import Settings
from tests.unit.test_segment_pipeline_filters import HEIGHT, WIDTH, DrawnModels, in_thread

REGIONS = [Region("cat", (10, 10, 60, 60)), Region("dog", (70, 20, 130, 70))]


def png(value: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (value, value, value)).save(file, "PNG")
    return file.getvalue()


def number(value: float) -> np.ndarray:
    return np.array([value], np.float32)


class Asked:
    """A service, and how often it did what costs time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, memory_bytes: int = 10**8) -> None:
        self.models = DrawnModels(REGIONS)
        self.models.input_size = (64, 64)
        self.counts = dict.fromkeys(("decode", "reduced", "upsample", "polygons", "rle"), 0)
        for name, module, function in (
            ("decode", loading, "decode_picture"),
            ("reduced", loading, "decode_reduced"),
            ("upsample", pipeline, "upsample_mask"),
            ("polygons", shapes, "mask_to_polygons"),
            ("rle", shapes, "encode_rle"),
        ):
            monkeypatch.setattr(module, function, self._counted(name, getattr(module, function)))
        self._loop = asyncio.new_event_loop()
        self._service = SegmentService(self.models, self._in_thread, Settings(memory_bytes=memory_bytes))
        self.threads = 0

    def __call__(self, picture: bytes | None = None, **inputs: Any) -> tuple[dict[str, int], dict[str, Any]]:
        """What it did, and the answer without its times."""
        before = dict(self.counts)
        inputs = {"image": picture or png(), **inputs}
        result = self._loop.run_until_complete(self._service(inputs, lambda: False)).result
        result.pop("timings_ms")
        did = {name: count - before[name] for name, count in self.counts.items() if count != before[name]}
        return did, result

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        self.threads += 1
        return await in_thread(function, *arguments)

    def _counted(self, name: str, function: Any) -> Any:
        def counted(*arguments: Any) -> Any:
            self.counts[name] += 1
            return function(*arguments)

        return counted


FIRST = {"decode": 1, "upsample": 2, "polygons": 2}


def test_other_thresholds_make_nothing_anew_and_answer_as_a_first_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ask = Asked(monkeypatch)
    assert ask()[0] == FIRST
    for inputs in (
        {},
        {"confidence_threshold": number(0.95)},
        {"nms_threshold": number(0)},
        {"options": b'{"formats": ["rle", "coco", "geojson"], "nms": "mask"}'},
        {"output_mask": np.array([True])},
    ):
        did, answer = ask(**inputs)
        assert did == ({"rle": 2} if b"rle" in bytes(inputs.get("options", b"")) else {})  # the first time
        assert answer == Asked(monkeypatch)(**inputs)[1]


@pytest.mark.parametrize(
    ("inputs", "threads"),
    [
        ({"confidence_threshold": number(0.95)}, 0),
        ({"options": b'{"nms": "mask"}'}, 1),
        ({"options": b'{"formats": ["rle"]}'}, 1),  # to encode them, the first time
        ({"options": b'{"formats": ["geojson"]}'}, 1),
        ({"output_mask": np.array([True])}, 1),
        ({"image": png() + bytes(loading._HASHED_AT_ONCE)}, 1),  # to hash its bytes
    ],
    ids=["box", "mask", "rle", "geojson", "one mask", "large file"],
)
def test_no_thread_is_woken_for_what_takes_no_time(
    monkeypatch: pytest.MonkeyPatch, inputs: dict[str, Any], threads: int
) -> None:
    ask = Asked(monkeypatch)
    picture = inputs.get("image", png())
    ask(picture)
    before = ask.threads
    assert not ask(picture, **inputs)[0].keys() - {"rle"}
    assert ask.threads - before == threads


def test_many_corners_are_written_by_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Asked(monkeypatch)
    ask()
    monkeypatch.setattr(answer, "POINTS_AT_ONCE", 7)  # two rectangles have eight
    before = ask.threads
    assert ask()[0] == {}
    assert ask.threads - before == 1


def test_run_lengths_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Asked(monkeypatch)
    ask()
    assert ask(options=b'{"formats": ["rle"]}')[0] == {"rle": 2}
    before, bytes_before = ask.threads, ask._service._memory.bytes
    did, answered = ask(options=b'{"formats": ["rle"]}')
    assert (did, ask.threads - before) == ({}, 0)
    assert answered == Asked(monkeypatch)(options=b'{"formats": ["rle"]}')[1]
    assert ask._service._memory.bytes == bytes_before


def test_another_precision_outlines_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Asked(monkeypatch)
    ask()
    did, exact = ask(polygon_precision=number(0))
    assert did == {"polygons": 2}
    assert exact == Asked(monkeypatch)(polygon_precision=number(0))[1]
    assert ask(polygon_precision=number(0))[0] == {}


def test_a_preview_needs_the_pixels_only(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Asked(monkeypatch)
    ask()
    did, answer = ask(options=b'{"formats": ["preview"]}')
    assert did == {"decode": 1}
    assert answer == Asked(monkeypatch)(options=b'{"formats": ["preview"]}')[1]


def test_tiles_need_the_pixels_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Asked(monkeypatch)
    ask()
    did, answer = ask(options=b'{"tiles": 2}')
    assert did.pop("decode") == 1
    assert answer == Asked(monkeypatch)(options=b'{"tiles": 2}')[1]
    assert ask(options=b'{"tiles": 2}')[0] == {}


def test_a_reduced_decode_is_another_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Asked(monkeypatch)
    ask()
    reduced = json.dumps({"reduced_decode": True}).encode()
    assert ask(options=reduced)[0].get("reduced") == 1
    assert ask(options=reduced)[0] == {}


def test_another_file_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Asked(monkeypatch)
    ask()
    assert ask(png(1))[0] == FIRST


def test_without_memory_everything_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Asked(monkeypatch, memory_bytes=0)
    assert ask()[0] == FIRST
    assert ask()[0] == FIRST


def test_what_cannot_be_decoded_is_refused_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Asked(monkeypatch)
    ask()
    for _ in range(2):
        with pytest.raises(InvalidRequest, match=r"^image: "):
            ask(png()[:-30])


def test_shapes_count_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Asked(monkeypatch)
    ask()
    memory = ask._service._memory
    kept = [value for value, _ in memory._kept.values() if isinstance(value, shapes.Shape)]
    assert len(kept) == 2
    assert all(shape.nbytes >= shape.mask.bits.nbytes + 16 for shape in kept)
    assert memory.bytes == sum(size for _, size in memory._kept.values())
