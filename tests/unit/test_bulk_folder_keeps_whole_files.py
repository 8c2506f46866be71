"""`bulk`'s output folder: a file is there as a whole or not at all, and the first one stays."""

from __future__ import annotations

import os
import threading
import uuid
from pathlib import Path

import pytest

from florence2_sam2.bulk.errors import WrongUsage
from florence2_sam2.bulk.folder import Folder


@pytest.fixture(params=["local", "object store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """fsspec's `memory://` stands for the object stores: what is put there is there at once."""
    made = Folder(str(tmp_path / "out") if request.param == "local" else f"memory://{uuid.uuid4().hex}/out")
    made.make()
    return made


def test_what_is_there_stays(folder: Folder, tmp_path: Path) -> None:
    assert folder.read("a") is None
    assert folder.create("a", b"first")
    assert not folder.create("a", b"second")
    assert folder.read("a") == b"first"
    (tmp_path / "content").write_bytes(b"third")
    folder.replace("a", tmp_path / "content")
    assert folder.create("b", tmp_path / "content")
    assert (folder.read("a"), folder.read("b")) == (b"third", b"third")
    with folder.open("b") as file:
        file.seek(2)
        assert file.read() == b"ird"
    assert folder.names() == {"a", "b"}
    folder.remove("a")
    folder.remove("a")
    assert folder.names() == {"b"}
    assert not folder.exists("a")


def test_a_finished_file_is_not_touched_again(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.create("a", b"first")
    before = (tmp_path / "a").stat()
    folder.create("a", b"second")
    after = (tmp_path / "a").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert sorted(os.listdir(tmp_path)) == ["a"]


@pytest.mark.parametrize("has_links", [True, False], ids=["hard links", "no hard links"])
def test_of_many_writers_one_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    folder = Folder(str(tmp_path))
    if not has_links:

        def refuse(*_: object) -> None:
            raise OSError("not supported")

        monkeypatch.setattr(os, "link", refuse)
    contents = [bytes([letter]) * 100_000 for letter in range(8)]
    made: list[bytes] = []

    def write(content: bytes) -> None:
        if folder.create("a", content):
            made.append(content)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert folder.read("a") in made
    assert (
        len(made) == 1 or not has_links
    )  # without links two may pass the look at the same time; one is there, whole
    assert os.listdir(tmp_path) == ["a"]


def test_what_a_dead_writer_left_is_no_file(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.create("a", b"whole")
    (tmp_path / ".tmp-shard-000001.parquet-0").write_bytes(b"half")
    assert folder.names() == {"a"}
    folder.sweep()
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_that_is_not_there_has_no_files(tmp_path: Path) -> None:
    assert Folder(str(tmp_path / "none")).names() == set()


def test_an_unknown_protocol_is_said() -> None:
    with pytest.raises(WrongUsage, match=r"^OUTPUT: .*nowhere"):
        Folder("nowhere://bucket/out")
