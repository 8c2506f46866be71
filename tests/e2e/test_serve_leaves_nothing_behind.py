"""`florence2-sam2 serve` starts, serves, stops, and is gone: no process, no shared memory, whoever was killed.

That a dead process is replaced is in `test_faults_dead_processes_are_replaced.py`.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from calls import descendants, listening, until
from serving import Served
from tritonclient.utils import InferenceServerException

pytestmark = [pytest.mark.server, pytest.mark.timeout(180)]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    running = Served(tmp_path)
    running.wait_ready()
    yield running
    running.end()


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


def test_no_process_crashes_at_its_end(tmp_path: Path) -> None:
    """With a core dump each, where the machine writes them. Only the kernel's log tells: Triton has ended by then.

    Triton's stub does so now and then by itself (24.10), at a lock in memory that is gone already: so one
    stop of three must be clean.
    """
    if subprocess.run(["dmesg"], capture_output=True).returncode:
        pytest.skip("the kernel's log cannot be read here")
    crashed = []
    for number in range(3):
        crashed.append(_crashed_at_their_end(tmp_path / str(number)))
        if not crashed[-1]:
            return
    pytest.fail(f"at every stop: {crashed}")


def _crashed_at_their_end(folder: Path) -> list[str]:
    """Which processes of a server that is started, used and stopped."""
    folder.mkdir()
    served = Served(folder)
    try:
        served.wait_ready()
        served.segment()
        processes = descendants(served.process.pid)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(40) == 0
    finally:
        served.end()
    told = subprocess.run(["dmesg"], capture_output=True, text=True, errors="replace", check=True).stdout
    return [line for pid, line in processes.items() if f"[{pid}]: segfault" in told]


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
        second.end()
