"""`florence2-sam2 bulk` as a user runs it, in a process of its own, and its results beside direct calls'."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from calls import alive, descendants, until
from PIL import Image

from florence2_sam2.bulk import rows
from florence2_sam2.client import InvalidRequest, Segmenter
from florence2_sam2.training.scenes import draw_scene

FIRST_SEED = 9_300_000  # far from those of the training's and of the evaluation's scenes
BROKEN = b"no picture"
# Ray's start, and that of its workers, on a machine with nothing else to do; they take a multiple of it on a busy one.
RAY_SECONDS = 120


def drawn(count: int) -> dict[str, bytes]:
    """Tiny scenes as JPEG, by name; and one file that is none."""
    found = {}
    for number in range(count - 1):
        image = Image.fromarray(draw_scene(np.random.default_rng(FIRST_SEED + number), 96, 72).image)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        found[f"{number:03}.jpg"] = file.getvalue()
    return {**found, "broken.jpg": BROKEN}


def direct(address: str, pictures: Mapping[str, bytes], **settings: Any) -> dict[str, rows.Row]:
    """The rows that direct calls give."""
    settings = {"formats": (), "priority": "bulk", **settings}
    names = sorted(pictures)
    found = {}
    with Segmenter(address) as segmenter:
        each = segmenter.segment_each((pictures[name] for name in names), concurrency=4, **settings)
        for name, done in zip(names, each, strict=True):
            if not isinstance(done.error, InvalidRequest):
                found[name] = rows.of(name, done.unwrap())
    return found


def same_rows(found: Iterable[rows.Row], expected: Mapping[str, rows.Row]) -> None:
    """One row for each picture, each as expected; those that no direct call answers are errors."""
    found = list(found)
    ids = [row["id"] for row in found]
    assert len(ids) == len(set(ids)), "a picture stands there twice"
    answered = {row["id"]: row for row in found if row["error"] is None}
    assert answered.keys() == expected.keys()
    for key, row in answered.items():
        assert _without_absent(row) == _without_absent(expected[key]), key


def _without_absent(value: Any) -> Any:
    """Parquet has a null where JSON has nothing."""
    if isinstance(value, Mapping):
        return {name: _without_absent(one) for name, one in value.items() if one is not None}
    return [_without_absent(one) for one in value] if isinstance(value, list) else value


class Bulk:
    """A run of the command.

    Args:
        temporary: an empty folder with a short name, for what Ray writes.
    """

    def __init__(self, temporary: Path, address: str, *arguments: object) -> None:
        self._temporary = temporary
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the process
        self._regions = _regions()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "florence2_sam2",
                "bulk",
                *map(str, arguments),
                "--url",
                f"grpc://{address}",
            ],
            stdout=self._said,
            stderr=self._said,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": str(temporary)},
        )
        self.below: dict[int, str] = {}

    def look(self) -> None:
        """Remember what processes it has."""
        self.below |= descendants(self.process.pid)

    def workers(self) -> list[int]:
        """Processes of Ray that segment pictures."""
        self.look()
        return [pid for pid, line in descendants(self.process.pid).items() if "MapWorker" in line]

    def until_finished(self, out: Path, shards: int) -> None:
        """Wait until so many shards are finished and others are not."""

        def enough() -> bool:
            return len(finished(out)) >= shards or self.process.poll() is not None

        assert self._until(enough, RAY_SECONDS), self.said()
        assert self.process.poll() is None, self.said()

    def wait(self, seconds: float = 2 * RAY_SECONDS) -> int:
        """Its exit code."""
        assert self._until(lambda: self.process.poll() is not None, seconds), self.said()
        code = self.process.returncode
        assert code is not None
        return int(code)

    def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether it became true in time. Looks for processes only now and then: that takes a while itself."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            self.look()
            until(condition, 1)
        return True

    def kill(self) -> None:
        self.look()
        self.process.kill()
        self.process.wait()

    def said(self) -> str:
        self._said.seek(0)
        return self._said.read().decode()

    def leaves_nothing(self) -> None:
        """No process, no shared memory, no file, even where it was killed."""
        assert until(lambda: not any(map(alive, self.below)), 30), [
            line for pid, line in self.below.items() if alive(pid)
        ]
        assert _regions() <= self._regions
        assert until(lambda: not os.listdir(self._temporary), 10), os.listdir(self._temporary)
        assert not (Path("/tmp/ray").exists() and str(self.process.pid) in os.listdir("/tmp/ray"))


def _regions() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if re.match("plasma|ray", name)}


def finished(out: Path) -> dict[str, tuple[int, int]]:
    """Finished shards, and what changes when a file is written again."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.glob("shard-*")}


def read(out: Path) -> list[rows.Row]:
    found: list[rows.Row] = pq.read_table(out).to_pylist()
    return found


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder whose name is short enough for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="b-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
