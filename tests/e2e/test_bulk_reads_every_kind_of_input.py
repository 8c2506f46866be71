"""`florence2-sam2 bulk` from Parquet, WebDataset and URLs, into Parquet and COCO, against the real server.

Each picture's result is that of a direct call. What always runs has a worker without Ray, whose start takes most of the
time; the long forms run the command.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from bulk_inputs import without_ray, write_parquet, write_tar  # noqa: F401
from bulk_runs import Bulk, direct, drawn, read, same_rows, temporary  # noqa: F401
from drawn import SCENE
from picture_server import PATH, serving
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from florence2_sam2.bulk import rows
from florence2_sam2.cli import main
from florence2_sam2.client import Segmenter
from florence2_sam2.server.launch.embedded import EmbeddedServer

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

PICTURES = drawn(10)
NAMES = sorted(PICTURES)
RLE = {"formats": ("rle",)}


def write(kind: str, folder: Path) -> dict[str, str]:
    """An input of this kind with PICTURES; picture's name → its id."""
    folder.mkdir()
    if kind == "webdataset":
        ids = {}
        for number in range(2):
            members = [(name, PICTURES[name]) for name in NAMES[number::2]]
            labels = [(Path(name).stem + ".cls", b"1") for name, _ in members]
            write_tar(folder / f"train-{number}.tar", sorted([*members, *labels]))
            ids |= {name: f"train-{number}.tar/{name}" for name, _ in members}
        return ids
    if kind == "paths":
        for name in NAMES:
            (folder / "files" / name).parent.mkdir(exist_ok=True)
            (folder / "files" / name).write_bytes(PICTURES[name])
        write_parquet(folder / "index.parquet", {"path": [f"files/{name}" for name in NAMES], "id": NAMES})
        return {name: name for name in NAMES}
    content = [PICTURES[name] for name in NAMES]
    column: Any = content
    if kind == "structs":
        column = pa.array([{"bytes": one, "path": None} for one in content])
    write_parquet(folder / "a.parquet", {"image": column[:7], "label": [0] * 7}, 3)
    write_parquet(folder / "b.parquet", {"image": column[7:], "label": [0] * 3}, 3)
    return {name: f"a.parquet#{n}" if n < 7 else f"b.parquet#{n - 7}" for n, name in enumerate(NAMES)}


def expected(server: EmbeddedServer, ids: dict[str, str], **settings: Any) -> dict[str, rows.Row]:
    found = direct(server.grpc_address, PICTURES, **settings)
    return {ids[name]: {**row, "id": ids[name]} for name, row in found.items()}


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("kind", ["bytes", "structs", "paths", "webdataset"])
def test_every_kind(server: EmbeddedServer, tmp_path: Path, kind: str) -> None:
    ids = write(kind, tmp_path / "in")
    out = tmp_path / "out"
    options = ["--input", "parquet"] if kind == "paths" else []
    url = f"grpc://{server.grpc_address}"
    command = ["bulk", str(tmp_path / "in"), str(out), "--shard-size", "4", "--url", url, *options]
    assert main(command) == 1  # one is broken
    found = read(out)
    same_rows(found, expected(server, ids))
    assert {row["id"] for row in found} == set(ids.values())
    assert [row["id"] for row in found if row["error"] is not None] == [ids["broken.jpg"]]


@pytest.mark.usefixtures("without_ray")
def test_settings_run_lengths_and_coco(server: EmbeddedServer, tmp_path: Path) -> None:
    ids = write("bytes", tmp_path / "in")
    url = f"grpc://{server.grpc_address}"
    settings = ["--area-threshold", "1", "--phrases", "a star,a key", "--polygon-precision", "0"]
    asked = {"area_threshold": 1.0, "phrases": ["a star", "a key"], "polygon_precision": 0.0, **RLE}
    command = ["bulk", str(tmp_path / "in"), "--url", url, "--shard-size", "4", *settings]
    assert main([*command[:2], str(tmp_path / "out"), *command[2:], "--rle"]) == 1
    wanted = expected(server, ids, **asked)
    same_rows(read(tmp_path / "out"), wanted)

    whole = tmp_path / "all.coco.json"
    assert main([*command[:2], str(tmp_path / "coco"), *command[2:], "--merge", str(whole)]) == 1
    document = json.loads(whole.read_text())
    read_back = COCO(str(whole))
    names = {image["file_name"]: image["id"] for image in document["images"]}
    assert names.keys() == wanted.keys()
    assert [one["file_name"] for one in document["failed"]] == [ids["broken.jpg"]]
    labels = {category["id"]: category["name"] for category in document["categories"]}
    for key, row in wanted.items():
        annotations = read_back.loadAnns(read_back.getAnnIds(imgIds=[names[key]]))
        assert [labels[one["category_id"]] for one in annotations] == [one["label"] for one in row["objects"]]
        assert [one["segmentation"] for one in annotations] == [one["rle"] for one in row["objects"]]
        for annotation in annotations:
            assert int(coco_mask.decode(annotation["segmentation"]).sum()) == annotation["area"]
    assert sum(len(row["objects"]) for row in wanted.values()) == len(document["annotations"]) > 0


@pytest.mark.usefixtures("without_ray")
def test_urls_are_fetched_by_the_rules(server: EmbeddedServer, tmp_path: Path) -> None:
    """A picture at an address that is not public: refused by the server, and here, unless it is allowed here."""
    with serving(SCENE) as (web, asked):
        (tmp_path / "in").mkdir()
        urls = [f"http://{web}{PATH}", f"http://{web}/missing.png"]
        write_parquet(tmp_path / "in" / "a.parquet", {"url": urls, "id": ["there", "missing"]})
        command = ["bulk", str(tmp_path / "in"), "--url", f"grpc://{server.grpc_address}"]
        assert main([*command[:2], str(tmp_path / "server"), *command[2:]]) == 1
        assert main([*command[:2], str(tmp_path / "here"), *command[2:], "--fetch-here"]) == 1
        assert asked == []
        for out in ("server", "here"):
            assert {row["error_code"] for row in read(tmp_path / out)} == {"INVALID_ARGUMENT"}
        allowed = ["--fetch-here", "--url-allow", web]
        assert main([*command[:2], str(tmp_path / "allowed"), *command[2:], *allowed]) == 1
        assert asked == [PATH, "/missing.png"]
        there, missing = read(tmp_path / "allowed")
        with Segmenter(server.grpc_address) as segmenter:
            answer = segmenter.segment(SCENE, formats=(), priority="bulk")
        same_rows([there], {"there": rows.of("there", answer)})
        assert (missing["id"], "404" in missing["error"]) == ("missing", True)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["bytes", "webdataset"])
def test_every_kind_on_ray(
    server: EmbeddedServer,
    tmp_path: Path,
    temporary: Path,  # noqa: F811
    kind: str,
) -> None:
    ids = write(kind, tmp_path / "in")
    out, whole = tmp_path / "out", tmp_path / "all.coco.json"
    run = Bulk(temporary, server.grpc_address, tmp_path / "in", out, "--shard-size", 4, "--merge", whole)
    assert run.wait() == 1, run.said()
    run.leaves_nothing()
    document = json.loads(whole.read_text())
    wanted = expected(server, ids, **RLE)
    assert {image["file_name"] for image in document["images"]} == wanted.keys()
    assert len(document["annotations"]) == sum(len(row["objects"]) for row in wanted.values())
    assert [one["file_name"] for one in document["failed"]] == [ids["broken.jpg"]]
