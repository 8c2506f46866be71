"""Whatever the input of `bulk`: each picture is in one shard, once, under its own id, and is read as it was."""

from __future__ import annotations

import random
import tempfile
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from bulk_inputs import write_parquet, write_tar
from bulk_parts import question
from hypothesis import given, settings
from hypothesis import strategies as st

from florence2_sam2.bulk import listing, plan
from florence2_sam2.bulk.begin import Options, look
from florence2_sam2.bulk.calls import PictureFailed
from florence2_sam2.bulk.errors import BulkError
from florence2_sam2.bulk.folder import Folder
from florence2_sam2.bulk.reading import Reader
from florence2_sam2.bulk.source import Entry, Source


def read(url: Path, size: int, **changes: Any) -> list[list[tuple[str, Any]]]:
    """Each shard's pictures, by way of the plan: id, and bytes, URL, or why there are none."""
    looked_at, found = look(Options(str(url), "/out", ("localhost",), **changes))
    folder = Folder(f"memory://{uuid.uuid4().hex}")
    folder.make()
    made = plan.make(folder, question(), listing.shards(looked_at, found, size), size)
    pictures, reader = plan.Pictures(folder), Reader(looked_at)
    shards = []
    for shard in range(made.shards):
        shards.append([(item.id, loaded(item.load)) for item in reader.items(pictures.of(shard))])
    pictures.close()
    if looked_at.kind != "webdataset":
        assert made.pictures == sum(map(len, shards))
    return shards


def loaded(load: Any) -> Any:
    try:
        return load()
    except PictureFailed as error:
        return error.message


@settings(max_examples=30)
@given(count=st.integers(1, 40), size=st.integers(1, 12))
def test_files(count: int, size: int) -> None:
    with tempfile.TemporaryDirectory() as passing:
        folder = Path(passing) / "in"
        folder.mkdir()
        content = {f"{number}.png": f"picture {number}".encode() for number in range(count)}
        for name, data in content.items():
            (folder / name).write_bytes(data)
        shards = read(folder, size)
        assert [item for shard in shards for item in shard] == sorted(content.items())
        assert all(len(shard) == size for shard in shards[:-1])


@settings(max_examples=30)
@given(
    files=st.lists(st.tuples(st.integers(0, 25), st.integers(1, 9)), min_size=1, max_size=4),
    size=st.integers(1, 10),
    has_ids=st.booleans(),
    kind=st.sampled_from(["bytes", "struct", "url"]),
)
def test_rows_of_parquet(files: list[tuple[int, int]], size: int, has_ids: bool, kind: str) -> None:
    """`files`: rows, and rows of a row group."""
    with tempfile.TemporaryDirectory() as passing:
        folder = Path(passing) / "in"
        folder.mkdir()
        expected: list[tuple[str, Any]] = []
        for index, (rows, group) in enumerate(files):
            values = [f"{index}-{row}" for row in range(rows)]
            column: Any = pa.array([value.encode() for value in values], pa.binary())
            if kind == "struct":
                column = pa.StructArray.from_arrays([column], ["bytes"])
            elif kind == "url":
                values = [f"https://example.org/{value}.png" for value in values]
                column = pa.array(values, pa.string())
            columns = {"image": column}
            if has_ids:
                columns["id"] = pa.array([f"id {value}" for value in values], pa.string())
            write_parquet(folder / f"{index}.parquet", columns, group)
            for row, value in enumerate(values):
                key = f"id {value}" if has_ids else f"{index}.parquet#{row}"
                expected.append((key, value if kind == "url" else value.encode()))
        if not expected:
            return
        shards = read(folder, size)
        assert [item for shard in shards for item in shard] == expected
        assert all(0 < len(shard) <= size for shard in shards)


NAMES = st.sampled_from(["a.jpg", "a.png", "./b.jpg", "deep/c.webp", "a.json", "a.cls", ".d.png", "._a.jpg"])


@settings(max_examples=30)
@given(tars=st.lists(st.lists(st.tuples(NAMES, st.binary(max_size=600)), max_size=8), min_size=1, max_size=3))
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_members_of_tar_files(mode: str, tars: list[list[tuple[str, bytes]]]) -> None:
    with tempfile.TemporaryDirectory() as passing:
        folder = Path(passing) / "in"
        folder.mkdir()
        expected = []
        for index, members in enumerate(tars):
            name = f"{index}.tar" + (".gz" if mode == "w:gz" else "")
            write_tar(folder / name, members, mode)
            seen: Counter[str] = Counter()
            shard = []
            for member, content in members:
                plain = member.removeprefix("./")
                if plain.endswith((".json", ".cls")) or plain.startswith("."):
                    continue
                seen[plain] += 1
                shard.append((f"{name}/{plain}" + (f"#{seen[plain]}" if seen[plain] > 1 else ""), content))
            expected.append(shard)
        shards = read(folder, 3)
        assert shards == expected
        ids = [key for shard in shards for key, _ in shard]
        assert len(set(ids)) == len(ids)


def test_pictures_that_are_not_to_be_had_have_their_place_too(tmp_path: Path) -> None:
    for name, content in {"a.png": b"", "b.png": b"x" * 11, "c.png": b"x" * 10, "d.png": b"gone"}.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    looked_at, found = look(Options(str(tmp_path / "in"), "/out", ("localhost",), max_bytes=10))
    (lot,) = listing.shards(looked_at, found, 10)
    (tmp_path / "in" / "d.png").unlink()
    assert [(item.id, loaded(item.load)) for item in Reader(looked_at).items(lot)] == [
        ("a.png", "the file is empty"),
        ("b.png", "the picture has more than 10 bytes; --max-image-bytes allows more"),
        ("c.png", b"x" * 10),
        ("d.png", "the file cannot be read: No such file or directory"),
    ]


def test_rows_without_a_picture_have_their_place_too(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"image": [b"x", None, b"", b"x" * 11]})
    missing, large = "there is no picture in this row", "the picture has more than 10 bytes"
    (shard,) = read(tmp_path, 10, max_bytes=10)
    assert [one for _, one in shard[:3]] == [b"x", missing, missing]
    assert large in shard[3][1]
    write_parquet(tmp_path / "a.parquet", {"path": ["a.parquet", None, "../b"]})
    (shard,) = read(tmp_path, 10)
    assert shard[0][1].startswith(b"PAR1")
    assert shard[1][1] == missing
    assert "leads out of the folder" in shard[2][1]
    write_tar(tmp_path / "a.tar", [("a.png", b"x" * 11), ("b.png", b"y")])
    (shard,) = read(tmp_path / "a.tar", 10, max_bytes=10)
    assert shard[0][0] == "a.tar/a.png"
    assert large in shard[0][1]
    assert shard[1] == ("a.tar/b.png", b"y")


@settings(max_examples=40)
@given(cut=st.integers(0, 5 * 1024), mode=st.sampled_from(["w", "w:gz"]))
def test_a_tar_file_that_is_cut_off_is_no_shard(cut: int, mode: str) -> None:
    """Wherever it is cut: between two members too. Its second half of the mark of the end may be missing."""
    with tempfile.TemporaryDirectory() as passing:
        path = Path(passing) / "a.tar"
        rng = random.Random(0)
        write_tar(path, [(f"{name}.png", rng.randbytes(1500)) for name in "ab"], mode)
        whole = path.read_bytes()
        needed = 2 * 1500 if mode == "w:gz" else 2 * (512 + 1536) + 512
        path.write_bytes(whole[: min(cut, needed - 1)])
        entry = Entry("a.tar", str(path))
        with pytest.raises(BulkError, match="is no whole tar file"):
            list(Reader(Source(str(path), "webdataset")).items([entry]))


def test_a_tar_file_with_a_garbled_header_is_no_shard(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_tar(path, [("a.png", b"x" * 512), ("b.png", b"y" * 512)])
    content = bytearray(path.read_bytes())
    content[1024:1536] = b"?" * 512
    path.write_bytes(content)
    with pytest.raises(BulkError, match="is no whole tar file"):
        list(Reader(Source(str(path), "webdataset")).items([Entry("a.tar", str(path))]))


@pytest.mark.parametrize("change", ["fewer rows", "no Parquet"])
def test_files_that_have_changed_are_no_shard(tmp_path: Path, change: str) -> None:
    url = tmp_path / "a.parquet"
    write_parquet(url, {"image": [b"x"] * 9}, 3)
    looked_at, found = look(Options(str(url), "/out", ("localhost",)))
    lots = list(listing.shards(looked_at, found, 3))
    if change == "fewer rows":
        write_parquet(url, {"image": [b"x"] * 8}, 3)
    else:
        url.write_bytes(b"none of it")
    with pytest.raises(BulkError, match=r"is not the Parquet file|fewer rows"):
        list(Reader(looked_at).items(lots[-1]))
