"""`bulk`'s INPUT: folders, patterns, counted names, Parquet, WebDataset, on any file system."""

from __future__ import annotations

import uuid
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from bulk_inputs import write_parquet, write_tar
from bulk_parts import png

from florence2_sam2.bulk import listing, source
from florence2_sam2.bulk.begin import Options, look
from florence2_sam2.bulk.errors import WrongUsage
from florence2_sam2.bulk.source import Source

NAMES = ("_DSC1.jpg", "a.png", "deep/b.JPEG", "deep/c.webp")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "in put"
    for name in (*NAMES, ".hidden.png", "deep/.cache/e.png", "notes.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png())
    return root


def ids(url: str, **changes: str) -> list[str]:
    looked_at, found = look(Options(url, "/out", ("localhost",), **changes))  # type: ignore[arg-type]
    return [entry.id for lot in listing.shards(looked_at, found, 3) for entry in lot]


def test_a_folder_and_all_below(folder: Path) -> None:
    assert ids(str(folder)) == sorted(NAMES)
    assert ids(f"file://{folder}") == sorted(NAMES)


def test_a_pattern_counts_from_its_folder(folder: Path) -> None:
    assert ids(f"{folder}/*/*.[Jw]*") == ["deep/b.JPEG", "deep/c.webp"]
    assert ids(f"{folder}/deep/*.webp") == ["c.webp"]
    assert ids(f"{folder}/**") == sorted(NAMES)
    assert ids(f"{folder}/a.png") == ["a.png"]


def test_an_object_store() -> None:
    fs = fsspec.filesystem("memory")
    root = f"/{uuid.uuid4().hex}"
    for name in NAMES:
        fs.pipe_file(f"{root}/{name}", png())
    assert ids(f"memory:/{root}") == sorted(NAMES)
    assert ids(f"memory:/{root}/deep/*") == ["b.JPEG", "c.webp"]


def test_names_that_count(tmp_path: Path) -> None:
    for number in (8, 9, 10):
        write_tar(tmp_path / f"train-{number:03}.tar", [])
    expected = ["train-008.tar", "train-009.tar", "train-010.tar"]
    assert ids(f"{tmp_path}/train-{{008..010}}.tar") == expected
    assert ids(str(tmp_path)) == expected
    with pytest.raises(WrongUsage, match=r"there is no .*train-011\.tar"):
        ids(f"{tmp_path}/train-{{008..011}}.tar")
    with pytest.raises(WrongUsage, match="counts 0 files"):
        ids(f"{tmp_path}/train-{{8..7}}.tar")


def test_several_kinds_are_not_mixed(folder: Path) -> None:
    write_tar(folder / "some.tgz", [], "w:gz")
    with pytest.raises(WrongUsage, match=r"pictures and webdataset; choose with --input"):
        ids(str(folder))
    assert ids(str(folder), kind="webdataset") == ["some.tgz"]
    assert ids(str(folder), kind="pictures") == sorted(NAMES)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("{folder}/none", "there is nothing at"),
        ("{folder}/deep/.cache", None),
        ("{folder}/notes.txt", r"no pictures files \(\.jpg, "),
        ("{folder}/*.tif", "no pictures files"),
        ("nowhere://bucket", "INPUT: .*nowhere"),
    ],
)
def test_nothing_to_read_is_said(folder: Path, url: str, message: str | None) -> None:
    if message is None:
        assert ids(url.format(folder=folder)) == ["e.png"]  # whoever names a hidden folder wants it
        return
    with pytest.raises(WrongUsage, match=message):
        ids(url.format(folder=folder))


def columns(path: Path, **changes: str) -> tuple[str | None, str | None]:
    looked_at, _ = look(Options(str(path), "/out", ("localhost",), **changes))  # type: ignore[arg-type]
    return looked_at.picture_column, looked_at.id_column


def test_columns_are_known_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, {"n": [1], "url": ["http://a/b"], "key": ["k"], "image": [b"png"]})
    assert columns(path) == ("image", "key")
    assert columns(path, picture_column="url", id_column="n") == ("url", "n")
    write_parquet(path, {"image": pa.array([{"bytes": b"png", "path": "a.png"}]), "label": [1]})
    assert columns(path) == ("image", None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"picture_column": "none"}, r"--picture-column: .* has no column none; its columns are n, x, image"),
        ({"id_column": "none"}, "--id-column: .* has no column none"),
        ({"picture_column": "x"}, "--picture-column: x is double; bytes, or text"),
        ({"id_column": "n"}, r"--id-column: n '1' stands in 2 rows"),
        ({"id_column": "m"}, "--id-column: m is empty in rows of a.parquet"),
        ({"id_column": "list"}, "--id-column: list is list<.*; text or numbers"),
    ],
)
def test_columns_that_will_not_do(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    path = tmp_path / "a.parquet"
    rows = {"n": [1, 1], "x": [0.5, 1.5], "image": [b"png", b"png"], "m": ["a", None], "list": [[1], [2]]}
    write_parquet(path, rows)
    with pytest.raises(WrongUsage, match=message):
        ids(str(path), **changes)


def test_a_table_without_pictures_is_said(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"n": [1]})
    with pytest.raises(WrongUsage, match="none that is called like a picture; its columns are n"):
        ids(str(tmp_path))


def test_files_that_differ_are_said(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"image": [b"png"], "id": ["1"]})
    write_parquet(tmp_path / "b.parquet", {"image": [b"png"]})
    with pytest.raises(WrongUsage, match=r"b\.parquet has no column id"):
        ids(str(tmp_path))
    write_parquet(tmp_path / "b.parquet", {"image": ["a path"], "id": ["2"]})
    with pytest.raises(WrongUsage, match=r"columns of b\.parquet are of other types"):
        ids(str(tmp_path))
    (tmp_path / "b.parquet").write_bytes(b"none")
    with pytest.raises(WrongUsage, match=r"b\.parquet is no Parquet file"):
        ids(str(tmp_path))


def test_flags_of_parquet_go_with_parquet(folder: Path) -> None:
    with pytest.raises(WrongUsage, match=r"--id-column: it goes with Parquet, and INPUT has pictures"):
        ids(str(folder), id_column="id")


ROOT = "/data/set"


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("a.png", f"{ROOT}/a.png"),
        ("deep/../a.png", f"{ROOT}/a.png"),
        (f"{ROOT}/b/c.png", f"{ROOT}/b/c.png"),
        (f"file://{ROOT}/b/c.png", f"{ROOT}/b/c.png"),
        ("https://example.org/a.png", "https://example.org/a.png"),
        ("data:image/png;base64,AA==", "data:image/png;base64,AA=="),
        ("../other/a.png", None),
        ("/etc/passwd", None),
        ("file:///etc/passwd", None),
        (f"{ROOT}-other/a.png", None),
        ("s3://bucket/a.png", None),
        ("", None),
        (None, None),
    ],
)
def test_paths_of_a_table_lead_to_its_own_pictures_only(where: str | None, expected: str | None) -> None:
    found = source.Found(fsspec.filesystem("file"), ROOT, [])
    for inside in (
        listing.Inside(Source("", "parquet"), found),
        listing.Inside(Source("", "parquet", root=ROOT), source.Found(None, "/elsewhere", [])),
    ):
        entry = inside.entry("key", where)
        assert entry.id == "key"
        assert (entry.where or None) == expected
        assert (entry.error is None) == (expected is not None)
