"""/dev/shm without room: an error answer and not a hang, the server lives, and works again when there is room.

The server runs in a mount namespace of its own with a small /dev/shm: the machine's is not touched.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from calls import descendants, picture
from PIL import Image
from serving import BOX, LARGE, Served, needs_mounts, with_mount

from florence2_sam2.client import Segmenter, SegmenterError, ServerOverloaded

PICTURE = (Path(__file__).resolve().parents[2] / "docs" / "pictures" / "demo.jpg").read_bytes()
MEGABYTE = 2**20
SMALL = "mount -t tmpfs -o size=320m tmpfs /dev/shm"
ERROR_SECONDS = 5.0


def unlike() -> bytes:
    """The same picture in other bytes: nothing is remembered of it."""
    return PICTURE + os.urandom(8)


pytestmark = [pytest.mark.server, pytest.mark.timeout(120), needs_mounts]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    running = Served(tmp_path_factory.mktemp("served"), prefix=with_mount(SMALL))
    running.wait_ready()
    with Segmenter(running.addresses["grpc"]) as client:
        for _ in range(3):  # the models' regions grow to what an ordinary call takes
            client.segment(unlike())
    yield running
    running.end()


class Room:
    """The free space of the /dev/shm that a process sees."""

    def __init__(self, pid: int) -> None:
        self._folder = Path("/proc") / str(pid) / "root" / "dev" / "shm"
        self._filler = self._folder / "filler"

    def fill(self, leaving: int) -> None:
        """Take all but `leaving` bytes."""
        status = os.statvfs(self._folder)
        assert status.f_blocks * status.f_frsize < 2**30, "this is the machine's own"
        with self._filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - leaving)

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)


@pytest.fixture
def full(served: Served) -> Iterator[Room]:
    room = Room(served.process.pid)
    room.fill(leaving=MEGABYTE // 2)
    yield room
    room.free()


def many_masks(client: Segmenter) -> Any:
    """115 MB of answer."""
    return client.sam2(LARGE, BOX.repeat(60, axis=0))


def large_picture(client: Segmenter) -> Any:
    """24 MB of request."""
    return client.segment(uncompressed(4000, 2000), boxes=BOX)


def uncompressed(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(width, height)).save(file, "BMP")
    return file.getvalue()


@pytest.mark.parametrize("ask", [many_masks, large_picture])
def test_what_does_not_fit_is_refused(served: Served, full: Room, ask: Callable[[Segmenter], Any]) -> None:
    before = descendants(served.process.pid)
    with Segmenter(served.addresses["grpc"], retries=0, timeout=30) as client:
        began = time.monotonic()
        with pytest.raises(ServerOverloaded, match="short of shared memory") as caught:
            ask(client)
        assert time.monotonic() - began < ERROR_SECONDS
        assert "florence2_sam2_" not in caught.value.message
        with contextlib.suppress(ServerOverloaded):  # answered where it fits into what the models have
            client.segment(unlike(), timeout=10)
        full.free()
        ask(client)
    assert descendants(served.process.pid).keys() == before.keys(), "it was answered by another server"


def test_many_calls_at_once_are_answered_or_refused(served: Served, full: Room) -> None:
    """Eight of 12 MB each, more than a region has grown for, and no room at all: nothing hangs, and the way back is
    free.
    """
    full.free()
    full.fill(leaving=0)
    medium = uncompressed(2000, 2000)
    before = descendants(served.process.pid)

    def ask(client: Segmenter) -> str:
        try:
            return "answered" if client.segment(medium + os.urandom(8), boxes=BOX).width else "empty"
        except SegmenterError as error:
            return "refused" if isinstance(error, ServerOverloaded) else repr(error)

    with (
        Segmenter(served.addresses["grpc"], retries=0, timeout=30) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        told = Counter(pool.map(ask, [client] * 16))
        assert set(told) <= {"answered", "refused"}
        assert told["refused"], "there was room"
        full.free()
        assert set(pool.map(ask, [client] * 16)) == {"answered"}
    assert descendants(served.process.pid).keys() == before.keys()
