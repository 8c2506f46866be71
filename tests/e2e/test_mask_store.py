"""`mask_url` in an object store: the mask lies there; when the store fails the answer has it, with a warning."""

from __future__ import annotations

import base64
import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from activity import Activity
from calls import until
from drawn import SCENE, segment

from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.settings import Settings

pytestmark = pytest.mark.server

KEEP_SECONDS = 7200
OLD, OTHER = f"{'0' * 40}.png", "report.png"
BOX = {"boxes": [[20, 20, 80, 80]], "confidence_threshold": 0, "output_mask": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("masks")


@pytest.fixture(scope="module")
def storing_server(folder: Path) -> Iterator[EmbeddedServer]:
    for name in (OLD, OTHER):
        (folder / name).write_bytes(b"of yesterday")
        os.utime(folder / name, (time.time() - 2 * KEEP_SECONDS,) * 2)
    settings = Settings(store_url=folder.as_uri(), store_keep_seconds=KEEP_SECONDS)
    with EmbeddedServer(settings=settings) as server:
        server.wait_ready()
        yield server


def test_the_mask_lies_in_the_store(storing_server: EmbeddedServer, folder: Path) -> None:
    result = segment(storing_server, SCENE, **BOX)
    assert result.mask_url is not None
    assert result.mask_url.startswith("file:")
    stored = Path(unquote(urlsplit(result.mask_url).path))
    assert stored.parent == folder
    assert stored.read_bytes() == result.mask_png
    assert result.warnings == ()
    assert result.mask_url_expires is not None
    left = result.mask_url_expires - datetime.now(UTC)
    assert timedelta(seconds=KEEP_SECONDS - 60) < left <= timedelta(seconds=KEEP_SECONDS)


def test_older_masks_are_removed_and_nothing_else(storing_server: EmbeddedServer, folder: Path) -> None:
    assert until(lambda: not (folder / OLD).exists(), 10)
    assert (folder / OTHER).exists()


def test_a_failing_store_loses_no_mask(storing_server: EmbeddedServer, folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("not a folder")
    try:
        result = segment(storing_server, SCENE, **BOX)
    finally:
        folder.unlink()
        folder.mkdir()
    assert result.mask_url is not None
    assert result.mask_url_expires is None  # it is in the answer
    kind, _, encoded = result.mask_url.partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(encoded) == result.mask_png
    assert any("mask_url" in warning for warning in result.warnings)
    assert not any(str(folder) in warning for warning in result.warnings)


def test_masks_are_counted(storing_server: EmbeddedServer) -> None:
    page = Activity([], storing_server.metrics_address)

    def shown() -> list[float]:
        return [page.number("florence2_sam2_masks_stored_total", how=how) for how in ("stored", "failed")]

    assert until(lambda: shown() == [1, 1], 5), shown()
