"""A repository in an object store is copied once, known by its content, checked, and served when the store is away."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from florence2_sam2.cache import fetched
from florence2_sam2.cache.store import Cache, CacheError
from florence2_sam2.cli.cache import run as list_or_remove
from florence2_sam2.server.launch.errors import StartError
from florence2_sam2.server.manifest import packaged_repository

URL = "bucket://models-2026-11"


class Bucket(MemoryFileSystem):
    """A store in memory which counts bytes, and may be away."""

    protocol = "bucket"
    cachable = False
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    away = False
    copied: list[str] = []  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).replace("bucket://", "memory://"))

    def find(self, *args: Any, **kwargs: Any) -> Any:
        if type(self).away:
            raise ConnectionError("http://10.0.0.7:9000 AKIA12345")
        return super().find(*args, **kwargs)

    def get_file(self, rpath: str, lpath: str, *args: Any, **kwargs: Any) -> None:
        type(self).copied.append(rpath)
        super().get_file(rpath, lpath, *args, **kwargs)


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    fsspec.register_implementation("bucket", Bucket, clobber=True)
    Bucket.store, Bucket.pseudo_dirs, Bucket.away, Bucket.copied = {}, [""], False, []
    opened = Bucket()
    for path in packaged_repository().rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            opened.pipe_file(f"/models-2026-11/{path.relative_to(packaged_repository())}", path.read_bytes())
    yield opened
    Bucket.store, Bucket.pseudo_dirs = {}, [""]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def names(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def fetch(cache: Cache, url: str = URL, **options: Any) -> tuple[Path, list[str]]:
    said: list[str] = []
    obtained = fetched.fetch(url, cache, said.append, **options)
    obtained.lock.close()
    return obtained.entry.repository, said


def test_it_is_copied_once(bucket: Bucket, cache: Cache) -> None:
    repository, said = fetch(cache)
    assert names(repository) == names(packaged_repository())
    assert said == [f"copying {URL} into {repository.parent}: once"]
    assert repository.parent.name.startswith("models-2026-11-")
    Bucket.copied.clear()
    assert fetch(cache) == (repository, [f"{URL}: copied before"])
    assert Bucket.copied == []


@pytest.mark.parametrize(
    "name", ["segment/config.pbtxt", "florence2/1/model.py", "florence2/1/manifest.json"]
)
def test_what_has_changed_is_copied_beside_it(bucket: Bucket, cache: Cache, name: str) -> None:
    before, _ = fetch(cache)
    bucket.pipe_file(f"/models-2026-11/{name}", bucket.cat_file(f"/models-2026-11/{name}") + b"\n")
    after, _ = fetch(cache)
    assert after != before
    assert before.is_dir()
    assert (after / name).read_bytes() == (before / name).read_bytes() + b"\n"


def test_a_damaged_object_is_refused_and_leaves_nothing(bucket: Bucket, cache: Cache) -> None:
    path = "/models-2026-11/florence2/1/decoder.onnx"
    bucket.pipe_file(path, b"x" + bucket.cat_file(path)[1:])
    with pytest.raises(StartError, match="has changed since the export"):
        fetch(cache)
    assert cache.entries() == []


def test_a_damaged_copy_is_made_again(bucket: Bucket, cache: Cache) -> None:
    repository, _ = fetch(cache)
    (repository / "florence2" / "1" / "decoder.onnx").write_bytes(b"x")
    assert fetch(cache)[1] == [f"copying {URL} into {repository.parent}: once"]
    assert len((repository / "florence2" / "1" / "decoder.onnx").read_bytes()) > 1


def test_the_last_copy_is_served_while_the_store_is_away(bucket: Bucket, cache: Cache) -> None:
    Bucket.away = True
    with pytest.raises(StartError, match=r"^the models cannot be copied from the store \(ConnectionError\)$"):
        fetch(cache)
    Bucket.away = False
    repository, _ = fetch(cache)
    Bucket.away = True
    told = "the models cannot be copied from the store (ConnectionError): serving what was copied from there before"
    assert fetch(cache) == (repository, [told, f"{URL}: copied before"])
    with pytest.raises(StartError):
        fetch(cache, "bucket://other")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("bucket://nothing", "the store has nothing at that URL|cannot be copied"),
        ("bucket://key:secret@models", "--repository has credentials in it"),
        ("simplecache::bucket://models", "--repository is a chain of URLs"),
        ("nosuchstore://models", "cannot be copied from the store"),
    ],
)
def test_a_wrong_place_is_one_line(bucket: Bucket, cache: Cache, url: str, said: str) -> None:
    with pytest.raises(StartError, match=said) as refused:
        fetch(cache, url)
    assert "secret" not in str(refused.value)
    assert not cache.folder.exists() or not cache.entries()


def test_half_a_repository_is_none(bucket: Bucket, cache: Cache) -> None:
    bucket.rm("/models-2026-11/sam2", recursive=True)
    with pytest.raises(StartError, match="the sam2 half of the model repository is missing in the store"):
        fetch(cache)


def test_a_folder_of_large_things_is_not_read(
    bucket: Bucket, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetched, "MAX_SMALL_BYTES", 2**20)
    bucket.pipe_file("/models-2026-11/other.bin", bytes(2**20))
    with pytest.raises(StartError, match="large files at that URL which no manifest names"):
        fetch(cache)


def test_a_copy_that_is_served_is_not_removed(
    bucket: Bucket, cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    obtained = fetched.fetch(URL, cache, lambda text: None)
    with pytest.raises(CacheError, match="in use"):
        cache.remove(obtained.entry)
    obtained.lock.close()

    class Arguments:
        action, names, all, cache = "list", (), False, obtained.entry.folder.parent

    assert list_or_remove(Arguments) == 0  # type: ignore[arg-type]
    shown = capsys.readouterr().out
    assert URL in shown
    assert "another version" not in shown
    source = json.loads((packaged_repository() / "sam2" / "1" / "manifest.json").read_text())["source"]
    assert source["sha256"] in shown
    cache.remove(obtained.entry)
    assert cache.entries() == []


def test_folders_of_this_machine_have_urls_too(tmp_path: Path, cache: Cache) -> None:
    source = shutil.copytree(
        packaged_repository(), tmp_path / "models", ignore=shutil.ignore_patterns("__pycache__")
    )
    assert names(fetch(cache, source.as_uri())[0]) == names(packaged_repository())
