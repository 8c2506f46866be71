"""`bulk`'s output folder belongs to one run at a time; a dead one's is taken over, a live one's never."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from florence2_sam2.bulk.errors import BulkError
from florence2_sam2.bulk.folder import Folder
from florence2_sam2.bulk.owner import OWNER, Owner


@pytest.fixture(params=["local", "object store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder(str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}")


def owning(folder: Folder, lost: Any = lambda: None, told: Any = lambda _: None) -> Owner:
    return Owner(folder, lost, told, beat=0.05, dead=0.5)


def test_a_second_run_is_refused_and_the_folder_is_free_afterwards(folder: Folder) -> None:
    with owning(folder):
        with pytest.raises(
            BulkError, match=rf"another run is writing to it \(process \d+ on {platform.node()}\)"
        ):
            owning(folder)
        assert folder.exists(OWNER)
    assert not folder.exists(OWNER)
    with owning(folder):
        pass


def test_a_run_of_this_machine_that_has_died_is_followed_at_once(folder: Folder) -> None:
    """Also where its process id is another process's by now."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    for pid, began in ((done.pid, "1"), (1, "another time")):
        body = {"run": "r", "host": platform.node(), "pid": pid, "began": began, "beat": 3}
        folder.replace(OWNER, json.dumps(body).encode())
        start = time.monotonic()
        with owning(folder):
            pass
        assert time.monotonic() - start < 0.4


def of_another_machine(beat: int) -> bytes:
    body = {"run": "r", "host": "elsewhere", "pid": 1, "began": "1", "beat": beat}
    return json.dumps(body).encode()


def test_a_run_of_another_machine_is_watched(folder: Folder) -> None:
    folder.replace(OWNER, of_another_machine(1))
    said: list[str] = []
    with owning(folder, told=said.append):
        pass
    assert said == ["a run on elsewhere was writing here; waiting 0 s for a sign of life"]
    folder.replace(OWNER, of_another_machine(1))
    alive = threading.Timer(0.2, lambda: folder.replace(OWNER, of_another_machine(2)))
    alive.start()
    with pytest.raises(BulkError, match="process 1 on elsewhere"):
        owning(folder)
    alive.join()


def test_garbage_is_nobody(folder: Folder) -> None:
    folder.replace(OWNER, b"{")
    with owning(folder):
        pass


def test_a_run_that_was_taken_for_dead_is_told_and_leaves_the_other_alone(folder: Folder) -> None:
    lost = threading.Event()
    with owning(folder, lost.set):
        folder.replace(OWNER, of_another_machine(1))
        assert lost.wait(5)
    assert folder.read(OWNER) == of_another_machine(1)


def test_of_many_at_once_one_begins(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    began: list[Owner] = []
    refused: list[str] = []
    together = threading.Barrier(6)

    def begin() -> None:
        together.wait()
        try:
            began.append(owning(folder))
        except BulkError as error:
            refused.append(str(error))

    runs = [threading.Thread(target=begin) for _ in range(6)]
    for one in runs:
        one.start()
    for one in runs:
        one.join()
    assert (len(began), len(refused)) == (1, 5)
    began[0].__exit__(None, None, None)


def test_it_says_again_and_again_that_it_is_alive(folder: Folder) -> None:
    with owning(folder):
        first = folder.read(OWNER)
        end = time.monotonic() + 5
        while folder.read(OWNER) == first and time.monotonic() < end:
            time.sleep(0.02)
        assert json.loads(folder.read(OWNER) or b"")["beat"] > json.loads(first or b"")["beat"]
