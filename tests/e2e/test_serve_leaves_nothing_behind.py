"""`florence2-sam2 serve` starts, serves, stops, and is gone: no process, no shared memory, whoever was killed."""

from __future__ import annotations

import concurrent.futures
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calls import alive, descendants, infer, listening, picture, png, shared_memory, until
from tritonclient.utils import InferenceServerException

pytestmark = [pytest.mark.server, pytest.mark.timeout(180)]

LARGE = png(picture(1600, 1200))
BOX = np.array([[200, 200, 1000, 900]], np.float32)


class Served:
    """A running `florence2-sam2 serve`."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.ready_file = folder / "ready.json"
        self.output = folder / "output"
        ports = [word for name in ("grpc", "http", "metrics") for word in (f"--{name}-port", "0")]
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "florence2_sam2",
                    "serve",
                    *ports,
                    "--ready-file",
                    str(self.ready_file),
                    *arguments,
                ],
                stderr=file,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        began = time.monotonic()
        assert until(lambda: self.ready_file.exists() or self.process.poll() is not None, 90), self.text()
        self.start_seconds = time.monotonic() - began
        assert self.process.poll() is None, self.text()
        self.addresses: dict[str, Any] = json.loads(self.ready_file.read_text())
        self.below = descendants(self.process.pid)

    def text(self) -> str:
        return self.output.read_text()

    def pid_of(self, part: str) -> int:
        return next(pid for pid, line in descendants(self.process.pid).items() if part in line)

    def segment(self, timeout: float = 60) -> dict[str, Any]:
        return infer(self.addresses["grpc"], "segment", {"image": png(picture())}, ["result"], timeout)

    def nothing_left(self) -> bool:
        return not any(map(alive, self.below)) and not shared_memory(self.process.pid)

    def slow_segment(self) -> dict[str, Any]:
        """The same through `segment`, which calls the other models itself."""
        options = json.dumps({"boxes": np.repeat(BOX, 60, axis=0).tolist()}).encode()
        inputs = {"image": LARGE, "options": options, "nms_threshold": np.ones(1, np.float32)}
        return infer(self.addresses["grpc"], "segment", inputs, ["result"])

    def refuses_new_work(self) -> bool:
        try:
            self.segment()
        except InferenceServerException:
            return True
        return False

    def slow(self) -> dict[str, Any]:
        """A request of a second or more: many large masks."""
        return infer(self.addresses["grpc"], "sam2", {"image": LARGE, "boxes": np.repeat(BOX, 60, axis=0)})


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    running = Served(tmp_path)
    running.wait_ready()
    yield running
    running.process.kill()
    running.process.wait()
    assert until(running.nothing_left, 10)
    shutil.rmtree(Path(running.addresses["log"]).parent, ignore_errors=True)  # a killed server keeps its log


def test_it_serves_and_a_sigterm_ends_it_cleanly(served: Served) -> None:
    assert json.loads(served.segment()["result"][0])["image"] == {"width": 64, "height": 48}
    log = Path(served.addresses["log"])
    assert log.is_file()
    addresses = listening(served.pid_of("bin/tritonserver --"))
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1, and the same as IPv6 writes it
    assert {address for address, _ in addresses} <= loopback, "it listens beyond loopback"
    assert len(addresses) == 3
    with concurrent.futures.ThreadPoolExecutor() as pool:
        slow, slow_segment = pool.submit(served.slow), pool.submit(served.slow_segment)
        time.sleep(0.4)
        served.process.send_signal(signal.SIGTERM)
        assert slow.result()["masks"].shape == (60, 1200, 1600), "what was in flight was not finished"
        answer = json.loads(slow_segment.result()["result"][0])
        assert len(answer["objects"]) + len(answer["filtered"]) == 60
        assert until(served.refuses_new_work, 10)
    assert served.process.wait(40) == 0
    assert served.nothing_left()
    assert not served.ready_file.exists()
    assert not log.parent.exists()
    lines = served.text().splitlines()
    assert all(line.startswith("florence2-sam2: ") for line in lines), "only our own lines on the terminal"
    assert [line for line in lines if "ready after" in line]
    assert served.addresses["grpc"] in served.text()


def test_a_second_signal_ends_it_at_once(served: Served) -> None:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        slow = [
            pool.submit(served.slow) for _ in range(5)
        ]  # one after the other: the last ends after seconds
        time.sleep(0.4)
        served.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert not all(request.done() for request in slow)
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(5) == 130
        assert [request for request in slow if isinstance(request.exception(), InferenceServerException)]
    assert until(served.nothing_left, 2)
    assert not [pid for pid in served.below if Path(f"/proc/{pid}").exists()], "zombies are left"


@pytest.mark.parametrize("victim", ["launcher", "guard"])
def test_a_killed_launcher_takes_the_server_with_it(served: Served, victim: str) -> None:
    pid = served.process.pid if victim == "launcher" else served.pid_of("launch.guard")
    os.kill(pid, signal.SIGKILL)
    if victim == "guard":  # the launcher lives: it clears up and starts again, and must end when told to
        time.sleep(1)
        served.process.send_signal(signal.SIGTERM)
        served.process.wait(40)
    assert until(served.nothing_left, 5)


@pytest.mark.parametrize("victim", ["triton_python_backend_stub", "bin/tritonserver --"])
def test_a_dead_process_of_the_server_is_replaced_without_a_human(served: Served, victim: str) -> None:
    old = served.pid_of(victim)
    os.kill(old, signal.SIGKILL)
    assert until(lambda: "starting again" in served.text(), 3)
    # 10 s where the machine has nothing else to do; on a busy one, what a start takes there.
    assert until(lambda: "ready again" in served.text(), max(10, 1.5 * served.start_seconds))
    assert served.segment()["result"].size == 1
    assert old not in descendants(served.process.pid)
    assert len(shared_memory(served.process.pid)) <= len(served.below)


def test_a_signal_during_the_start_ends_it_at_once(tmp_path: Path) -> None:
    starting = Served(tmp_path)
    assert until(lambda: "starting Triton" in starting.text(), 30)
    time.sleep(0.5)
    starting.below = descendants(starting.process.pid)
    starting.process.send_signal(signal.SIGTERM)
    assert starting.process.wait(10) == 0
    assert until(starting.nothing_left, 2)


def test_two_servers_side_by_side(served: Served, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    second = Served(other)
    try:
        second.wait_ready()
        assert second.segment()["result"].size == served.segment()["result"].size == 1
        second.process.send_signal(signal.SIGTERM)
        assert second.process.wait(40) == 0
        assert served.segment()["result"].size == 1, "stopping one server has hurt the other"
    finally:
        second.process.kill()
        second.process.wait()
