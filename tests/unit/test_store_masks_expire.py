"""How long a mask can be had is in the answer, and holds; afterwards it is removed, and nothing else is."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from florence2_sam2.client import Segmentation
from florence2_sam2.server import store_sweep
from florence2_sam2.server.settings import Settings
from florence2_sam2.server.store import MaskStore, StoreError
from florence2_sam2.server.store_sweep import GRACE_SECONDS, MOST_AT_ONCE, Sweep

PNG = b"\x89PNG\r\n\x1a\n mask"
NAME = "0123456789abcdef0123456789abcdef01234567.png"
KEEP = 3600


def store(url: str, **options: int) -> MaskStore:
    return MaskStore(url, Settings(store_url=url, **options))


def old(path: Path, seconds: float) -> Path:
    path.write_bytes(PNG)
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def sweep(folder: Path, keep: float = KEEP) -> Sweep:
    return Sweep(folder, keep, threading.Lock())


def within(told: datetime | None, seconds: int) -> bool:
    assert told is not None
    return timedelta(seconds=seconds - 5) < told - datetime.now(UTC) <= timedelta(seconds=seconds)


class Signing(MemoryFileSystem):
    protocol = "signing"
    cachable = False

    def sign(self, path: str, expiration: int = 100, **kwargs: object) -> str:
        return f"https://store.test/{path.lstrip('/')}?seconds={expiration}"


@pytest.fixture
def signing() -> Iterator[None]:
    fsspec.register_implementation("signing", Signing, clobber=True)
    return


def test_a_signed_link_says_until_when(signing: None) -> None:
    stored = store("signing://masks", store_link_seconds=90).put(PNG)
    assert stored.url.endswith("seconds=90")
    assert within(stored.expires, 90)


def test_a_mask_in_a_folder_says_until_when_if_it_is_removed_at_all(tmp_path: Path) -> None:
    assert store(f"file://{tmp_path}").put(PNG).expires is None
    assert within(store(f"file://{tmp_path}", store_keep_seconds=KEEP).put(PNG).expires, KEEP)
    assert store("memory://masks").put(PNG).expires is None


@pytest.mark.parametrize("url", ["memory://masks", "signing://masks"])
def test_where_the_server_removes_nothing_it_does_not_promise_to(signing: None, url: str) -> None:
    with pytest.raises(StoreError, match=r"^FLORENCE2_SAM2_STORE_KEEP_SECONDS .* lifecycle rule$"):
        store(url, store_keep_seconds=KEEP)


def test_only_masks_that_are_old_enough_go(tmp_path: Path) -> None:
    late = KEEP + GRACE_SECONDS + 5
    gone = [old(tmp_path / NAME, late), old(tmp_path / f"{NAME[1:-4]}8.png.0123456789abcdef", late)]
    (tmp_path / "folder.png").mkdir()
    link = tmp_path / f"{'f' * 40}.png"
    link.symlink_to(old(tmp_path / "report.png", late))
    stay = [
        old(tmp_path / f"{'a' * 40}.png", KEEP + GRACE_SECONDS - 30),
        old(tmp_path / f"{'b' * 40}.PNG", late),
        old(tmp_path / f"{'c' * 39}.png", late),
        old(tmp_path / f"{'d' * 40}.png.bak", late),
        tmp_path / "folder.png",
        link,
        tmp_path / "report.png",
    ]
    assert sweep(tmp_path).once() == len(gone)
    assert set(tmp_path.iterdir()) == set(stay)
    assert sweep(tmp_path).once() == 0


def test_a_mask_that_is_asked_for_again_stays_for_another_while(tmp_path: Path) -> None:
    masks = store(f"file://{tmp_path}", store_keep_seconds=KEEP)
    path = Path(masks.put(PNG).url.removeprefix("file://"))
    os.utime(path, (time.time() - 2 * KEEP,) * 2)
    masks.put(PNG)
    assert sweep(tmp_path).once() == 0
    assert path.read_bytes() == PNG


def test_many_are_removed_in_rounds(tmp_path: Path) -> None:
    for number in range(MOST_AT_ONCE + 5):
        old(tmp_path / f"{number:040x}.png", 2 * KEEP)
    assert [sweep(tmp_path).once() for _ in range(3)] == [MOST_AT_ONCE, 5, 0]


def test_a_folder_that_is_away_is_no_error(tmp_path: Path) -> None:
    assert sweep(tmp_path / "none").once() == 0


def test_what_was_answered_is_there_while_others_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_sweep, "GRACE_SECONDS", 0.0)
    masks = store(f"file://{tmp_path}", store_keep_seconds=KEEP)
    over = threading.Event()

    def remove() -> int:
        count = 0
        while not over.is_set():
            count += Sweep(tmp_path, KEEP, masks._replacing).once()
        return count

    with ThreadPoolExecutor(1) as pool:
        removing = pool.submit(remove)
        try:
            for _ in range(200):
                path = Path(masks.put(PNG).url.removeprefix("file://"))
                assert path.read_bytes() == PNG
                os.utime(path, (time.time() - 2 * KEEP,) * 2)  # from here on it may go at any moment
        finally:
            over.set()
        assert removing.result() > 0


def test_the_server_does_it_by_itself(tmp_path: Path) -> None:
    path, kept = old(tmp_path / NAME, KEEP), old(tmp_path / "notes.txt", KEEP)
    store(f"file://{tmp_path}", store_keep_seconds=1)
    end = time.monotonic() + 10
    while path.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not path.exists()
    assert kept.exists()


def test_the_client_reads_it() -> None:
    body = {"image": {"width": 3, "height": 2}, "objects": [], "filtered": []}
    assert Segmentation.from_json(body).mask_url_expires is None
    told = Segmentation.from_json({**body, "mask_url_expires": "2026-11-30T01:02:03Z"})
    assert told.mask_url_expires == datetime(2026, 11, 30, 1, 2, 3, tzinfo=UTC)
    assert json.loads(told.to_json())["mask_url_expires"] == "2026-11-30T01:02:03Z"
