"""The container's smaller parts: names of shared memory, waiting for calls in flight, models out of a store, cores."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from florence2_sam2.server.container import models
from florence2_sam2.server.container.idle import wait_idle
from florence2_sam2.server.container.shared_memory import PREFIX, SharedMemoryNames
from florence2_sam2.server.launch.connection import NoAnswer
from florence2_sam2.server.launch.errors import StartError
from florence2_sam2.server.manifest import packaged_repository
from florence2_sam2.server.onnx_session import cores

HOLDING = """
import sys
from pathlib import Path
from florence2_sam2.server.container.shared_memory import SharedMemoryNames
with SharedMemoryNames(Path(sys.argv[1])) as names:
    print(names.prefix, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run in another process that has entered, with one region."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    (tmp_path / (process.stdout.readline().strip() + "region")).touch()
    yield process
    process.kill()
    process.communicate()


def regions(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*region"))


def test_a_killed_runs_shared_memory_is_removed_by_the_next(
    tmp_path: Path, other: subprocess.Popen[str]
) -> None:
    other.kill()
    other.wait()
    assert len(regions(tmp_path)) == 1
    (tmp_path / "somebody_elses_region").touch()
    with SharedMemoryNames(tmp_path) as names:
        assert regions(tmp_path) == ["somebody_elses_region"]
        (tmp_path / f"{names.prefix}region").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["somebody_elses_region"]


def test_a_running_ones_is_left_alone(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    before = regions(tmp_path)
    with SharedMemoryNames(tmp_path):
        assert regions(tmp_path) == before
    assert regions(tmp_path) == before
    other.communicate("\n")
    assert not list(tmp_path.glob(f"{PREFIX}*"))


class Time:
    """A clock that goes on when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_waiting_ends_with_the_last_call() -> None:
    left, time = iter([3, 1, 0, 1]), Time()
    assert wait_idle(lambda: next(left), 60, time, time.sleep)
    assert time.now == 1.0
    assert next(left) == 1


def test_waiting_ends_with_its_time() -> None:
    time = Time()
    assert not wait_idle(lambda: 1, 10, time, time.sleep)
    assert time.now == 10.0


def test_nobody_waits_for_a_server_that_is_gone() -> None:
    def gone() -> int:
        raise NoAnswer("no connection")

    assert not wait_idle(gone, 1e9)


def test_models_are_copied_whole(tmp_path: Path) -> None:
    target = tmp_path / "repository"
    target.mkdir()
    (target / "old").touch()
    assert models.main([packaged_repository().as_uri(), str(target)]) == 0
    there = {
        path.relative_to(packaged_repository()) for path in packaged_repository().rglob("*") if path.is_file()
    }
    assert {path.relative_to(target) for path in target.rglob("*") if path.is_file()} == there
    assert [path.name for path in tmp_path.iterdir()] == ["repository"]


def test_models_come_from_an_object_store(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    store.put(str(packaged_repository()), "/bucket/models", recursive=True)
    try:
        models.copy_repository("memory://bucket/models", tmp_path / "repository")
    finally:
        store.rm("/bucket", recursive=True)
    assert (tmp_path / "repository" / "florence2" / "1" / "manifest.json").is_file()


def test_a_damaged_copy_takes_no_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    shutil.copytree(packaged_repository(), source)
    with (source / "sam2_mask_decoder" / "1" / "model.onnx").open("r+b") as file:
        file.write(b"x")
    assert models.main([source.as_uri(), str(tmp_path / "repository")]) == 1
    assert "has changed since the export" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memory://none", "nothing at that URL|cannot be copied"),
        ("nosuchstore://bucket/x", "cannot be copied"),
        ("file:///none/models", "nothing at that URL"),
        (Path(__file__).as_uri(), "there is a file at that URL"),
    ],
)
def test_a_store_without_models_is_one_line(tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(StartError, match=said) as refused:
        models.copy_repository(url, tmp_path / "repository")
    assert "/none" not in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("max 100000", None),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("99900000 100000", None),
        ("x", None),
        (None, None),
    ],
)
def test_threads_go_by_the_containers_share(tmp_path: Path, text: str | None, wanted: int | None) -> None:
    quota = tmp_path / "cpu.max"
    if text is not None:
        quota.write_text(f"{text}\n")
    allowed = len(os.sched_getaffinity(0))
    assert cores(quota) == (allowed if wanted is None else min(wanted, allowed))
