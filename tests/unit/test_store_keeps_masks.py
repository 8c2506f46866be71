"""A mask in the store is there, complete, under the URL that was answered; a store that fails says so in time."""

from __future__ import annotations

import builtins
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from florence2_sam2.server.settings import Settings
from florence2_sam2.server.store import MaskStore, StoreError, open_store

PNG = b"\x89PNG\r\n\x1a\n mask"


def store(url: str, **options: Any) -> MaskStore:
    return MaskStore(url, Settings(store_url=url, **options))


def test_without_a_url_there_is_no_store() -> None:
    assert open_store(Settings()) is None


def test_a_folder_is_made_and_filled(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "masks"
    masks = open_store(Settings(store_url=f"file://{folder}"))
    assert masks is not None
    url = masks.put(PNG).url
    assert url.startswith(f"file://{folder}/")
    assert url.endswith(".png")
    with fsspec.open(url) as file:
        assert file.read() == PNG
    assert [path.name for path in folder.iterdir()] == [url.rpartition("/")[2]]


def test_memory() -> None:
    url = store("memory://masks/of today").put(PNG).url
    assert url.startswith("memory://")
    with fsspec.open(url) as file:
        assert file.read() == PNG


def test_the_same_mask_has_the_same_url_and_another_another(tmp_path: Path) -> None:
    masks = store(f"file://{tmp_path}")
    assert masks.put(PNG) == masks.put(PNG) == store(f"file://{tmp_path}/").put(PNG)
    assert masks.put(PNG + b"2") != masks.put(PNG)
    assert len(list(tmp_path.iterdir())) == 2


def test_many_at_once(tmp_path: Path) -> None:
    masks = store(f"file://{tmp_path}")
    bodies = [PNG + bytes([number % 10]) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        urls = [stored.url for stored in pool.map(masks.put, bodies)]
    for body, url in zip(bodies, urls, strict=True):
        assert Path(url.removeprefix("file://")).read_bytes() == body
    assert len(list(tmp_path.iterdir())) == 10


class Faulty(MemoryFileSystem):
    """A store in memory whose next write does what `fault` says."""

    protocol = "faulty"
    cachable = False
    fault: Any = None
    links: bool = False

    def pipe_file(self, path: str, value: bytes, *args: Any, **kwargs: Any) -> None:
        if type(self).fault:
            type(self).fault()
        super().pipe_file(path, value, *args, **kwargs)

    def sign(self, path: str, expiration: int = 100, **kwargs: Any) -> str:
        if not type(self).links:
            raise NotImplementedError
        return f"https://store.test/{path.lstrip('/')}?seconds={expiration}"


@pytest.fixture
def faulty() -> Iterator[type[Faulty]]:
    fsspec.register_implementation("faulty", Faulty, clobber=True)
    yield Faulty
    Faulty.fault, Faulty.links = None, False


def test_links_are_signed_where_the_store_can(faulty: type[Faulty]) -> None:
    faulty.links = True
    url = store("faulty://masks", store_link_seconds=60).put(PNG).url
    assert url.startswith("https://store.test/")
    assert url.endswith(".png?seconds=60")


@pytest.mark.parametrize(
    "error",
    [
        OSError("/srv/secret.key denied"),
        PermissionError("AKIA12345"),
        ValueError("token=12345"),
        KeyError("k"),
    ],
)
def test_a_failing_store_is_a_store_error_without_secrets(faulty: type[Faulty], error: Exception) -> None:
    def fail() -> None:
        raise error

    faulty.fault = fail
    masks = store("faulty://masks")
    with pytest.raises(StoreError) as caught:
        masks.put(PNG)
    assert str(caught.value) == f"the store failed ({type(error).__name__})"
    faulty.fault = None
    assert masks.put(PNG)


def test_a_slow_store_is_left_in_time(faulty: type[Faulty]) -> None:
    release = threading.Event()
    faulty.fault = lambda: release.wait(10)
    masks = store("faulty://masks", store_seconds=0.2)
    start = time.monotonic()
    with pytest.raises(StoreError, match=r"more than 0\.2 s"):
        masks.put(PNG)
    assert time.monotonic() - start < 1.5
    release.set()


def test_a_store_that_hangs_holds_a_bounded_number_of_threads(faulty: type[Faulty]) -> None:
    release = threading.Event()
    faulty.fault = lambda: release.wait(20)
    masks = store("faulty://masks", store_seconds=0.001)
    before = threading.active_count()
    messages = set()
    for _ in range(60):
        with pytest.raises(StoreError) as caught:
            masks.put(PNG)
        messages.add(str(caught.value))
    assert threading.active_count() - before <= 32
    assert "the store is busy with earlier masks" in messages
    release.set()
    faulty.fault = None
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert store("faulty://masks").put(PNG)
    assert threading.active_count() <= before + 1


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:secret@bucket/masks",
        "s3://key@bucket/masks",
        "ftp://user:password@host/masks",
        "memory://masks?key=1234",
        "memory://masks?X-Amz-Signature=1234",
        "az://account:key@container/masks",
        "simplecache::s3://bucket/masks",
    ],
)
def test_a_url_with_credentials_is_refused_unseen(url: str) -> None:
    with pytest.raises(StoreError, match=r"^FLORENCE2_SAM2_STORE_URL ") as caught:
        store(url)
    for word in ("secret", "password", "1234", "key:"):
        assert word not in str(caught.value)


@pytest.mark.parametrize("url", ["nosuchstore://masks", "dropbox://masks"])
def test_a_store_that_cannot_be_opened_is_one_line_at_the_start(url: str) -> None:
    with pytest.raises(StoreError, match=r"^FLORENCE2_SAM2_STORE_URL") as caught:
        store(url)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_made_is_one_line_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"^FLORENCE2_SAM2_STORE_URL cannot be opened") as caught:
        store(f"file://{tmp_path}/file/masks")
    assert str(tmp_path) not in str(caught.value)


def test_missing_fsspec_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_fsspec(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "fsspec":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_fsspec)
    with pytest.raises(StoreError, match=r"pip install 'florence2-sam2\[store\]'"):
        store("memory://masks")
