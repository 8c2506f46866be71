"""`bulk`'s results: Parquet rows have all that the server said, COCO is the client's COCO, merged or not."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from bulk_parts import plan
from hypothesis import given
from hypothesis import strategies as st
from kserve_peer import ANSWER
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from florence2_sam2.bulk import coco, rows, shard
from florence2_sam2.bulk.calls import PictureFailed
from florence2_sam2.bulk.errors import BulkError
from florence2_sam2.bulk.folder import Folder
from florence2_sam2.client import Segmentation, formats
from florence2_sam2.postprocess import CroppedMask, encode_rle

WIDTH, HEIGHT = 12, 8
SUMMARY = rows.Summary("a plan", 0, 1, 0, 1)


def answer(objects: list[dict[str, Any]]) -> Segmentation:
    return Segmentation.from_json({**ANSWER, "objects": objects})


def thing(
    label: str, x: int = 1, y: int = 1, width: int = 4, height: int = 3, **changes: Any
) -> dict[str, Any]:
    """A rectangle, as the server would describe it with run lengths."""
    corners = [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]
    mask = CroppedMask.from_full(_filled(x, y, width, height))
    return {
        "label": label,
        "box": [x, y, x + width, y + height],
        "area_ratio": 0.125,
        "grounding_score": 0.25,
        "score": 0.875,
        "mask_area": width * height,
        "polygons": [{"exterior": corners, "holes": []}],
        "rle": encode_rle(mask),
        **changes,
    }


def _filled(x: int, y: int, width: int, height: int) -> Any:
    import numpy as np

    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[y : y + height, x : x + width] = True
    return mask


def parquet(found: list[rows.Row]) -> list[dict[str, Any]]:
    content = rows.parquet(found, SUMMARY)
    assert rows.summary_of_parquet(io.BytesIO(content)) == SUMMARY
    read: list[dict[str, Any]] = pq.read_table(io.BytesIO(content)).to_pylist()
    return read


def test_a_row_has_all_of_the_answer() -> None:
    (row,) = parquet([rows.of("deep/a.png", Segmentation.from_json(ANSWER))])
    assert row.pop("id") == "deep/a.png"
    assert json.loads(row.pop("models")) == ANSWER["models"]
    assert (row.pop("width"), row.pop("height")) == (12, 8)
    assert (row.pop("error_code"), row.pop("error")) == (None, None)
    for name, absent in (
        ("objects", {"grounding_score", "rle"}),
        ("filtered", {"grounding_score", "suppressed_by"}),
    ):
        for read, said in zip(row.pop(name), ANSWER[name], strict=True):
            assert {key: value for key, value in read.items() if key not in absent} == said
            assert all(read[key] is None for key in absent)
    assert row == {name: ANSWER[name] for name in ("caption", "caption_source", "warnings")}


@given(numbers=st.lists(st.floats(0, 1e6), min_size=4, max_size=4), score=st.floats(0, 1) | st.none())
def test_numbers_come_back_as_they_were(numbers: list[float], score: float | None) -> None:
    (row,) = parquet([rows.of("a", answer([thing("a", box=numbers, score=score, grounding_score=None)]))])
    (read,) = row["objects"]
    assert read["box"] == numbers
    assert read["score"] == score
    assert read["rle"] == thing("a")["rle"]


def test_a_failure_is_a_row() -> None:
    (row,) = parquet([rows.of_failed("a.png", PictureFailed("INVALID_ARGUMENT", "image: is no picture"))])
    assert {name: value for name, value in row.items() if value is not None} == {
        "id": "a.png",
        "error_code": "INVALID_ARGUMENT",
        "error": "image: is no picture",
    }


def test_many_rows_keep_their_order() -> None:
    ids = [str(number) for number in range(500)]
    assert [row["id"] for row in parquet([rows.of(key, answer([])) for key in ids])] == ids


def test_counted() -> None:
    found = [
        rows.of("a", answer([thing("a"), thing("b")])),
        rows.of_failed("b", PictureFailed("INTERNAL", "no")),
        rows.of("c", answer([])),
    ]
    assert rows.counted("p", 7, found) == rows.Summary("p", 7, 3, 1, 2)


LABELS = st.sampled_from(["a cat", "two dogs", "an Apfel", "北京"])
PLACES = st.tuples(st.integers(0, 6), st.integers(0, 4), st.integers(1, 6), st.integers(1, 4))
PICTURES = st.lists(
    st.lists(st.builds(lambda label, place: thing(label, *place), LABELS, PLACES), max_size=4)
)


@given(pictures=PICTURES)
def test_coco_is_the_clients(pictures: list[list[dict[str, Any]]]) -> None:
    answers = [answer(objects) for objects in pictures]
    names = [f"{number}.png" for number in range(len(answers))]
    found = [rows.of(name, one) for name, one in zip(names, answers, strict=True)]
    document = coco.document(found, SUMMARY)
    expected = formats.coco(answers, 1, names)
    assert {name: document[name] for name in expected} == expected
    assert coco.summary_of(coco.written(found, SUMMARY)) == SUMMARY


def write_shards(folder: Folder, pictures: list[list[dict[str, Any]]], size: int) -> Any:
    shards = -(-len(pictures) // size)
    made = plan("coco", shards, size)
    for number in range(shards):
        found = []
        for index in range(number * size, min((number + 1) * size, len(pictures))):
            if pictures[index]:
                found.append(rows.of(f"{index}.png", answer(pictures[index])))
            else:
                found.append(rows.of_failed(f"{index}.png", PictureFailed("INVALID_ARGUMENT", "image: no")))
        content, summary = shard.written(made, number, [json.dumps(row).encode() for row in found])
        assert folder.create(made.file(number), content)
        assert shard.summary(folder, made, number) == summary
    return made


def test_merged_is_one_document(tmp_path: Path) -> None:
    """As the client would make it of all pictures at once; twice the same, byte for byte; other tools read it."""
    pictures = [
        [thing("cat"), thing("dog", 3, 2)],
        [],
        [thing("dog")],
        [thing("bird", 5, 1), thing("cat", 2, 2)],
        [thing("bird")],
    ]
    folder = Folder(str(tmp_path))
    made = write_shards(folder, pictures, 2)
    for name in ("one.json", "two.json"):
        coco.merge(folder, made, str(tmp_path / name))
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    document = json.loads((tmp_path / "one.json").read_text())
    good = [index for index, objects in enumerate(pictures) if objects]
    expected = formats.coco(
        [answer(pictures[index]) for index in good], 1, [f"{index}.png" for index in good]
    )
    assert {name: document[name] for name in expected} == expected
    assert document["failed"] == [{"file_name": "1.png", "code": "INVALID_ARGUMENT", "error": "image: no"}]
    assert document["info"]["models"] == ANSWER["models"]
    read = COCO(str(tmp_path / "one.json"))
    assert sorted(read.getImgIds()) == [1, 2, 3, 4]
    for annotation in read.loadAnns(read.getAnnIds()):
        assert int(coco_mask.decode(annotation["segmentation"]).sum()) == annotation["area"]


def test_merging_needs_all_shards_of_this_run(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    made = write_shards(folder, [[thing("cat")]] * 3, 1)
    (tmp_path / made.file(1)).rename(tmp_path / "aside")
    with pytest.raises(BulkError, match=r"has no shard-000001\.coco\.json yet"):
        coco.merge(folder, made, str(tmp_path / "all.json"))
    (tmp_path / made.file(1)).write_bytes((tmp_path / "aside").read_bytes().replace(b"a plan", b"another"))
    with pytest.raises(BulkError, match=r"shard-000001\.coco\.json in .* is not of this run"):
        coco.merge(folder, made, str(tmp_path / "all.json"))
    assert not (tmp_path / "all.json").exists()
