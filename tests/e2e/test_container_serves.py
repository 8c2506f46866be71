"""The container's first process with a real Triton: the pip wheel's, on PATH as NVIDIA's image has its own. So it is
Triton 24.10, with the embedded form of the leaf models; the rest is as in the image."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import triton_program
from calls import alive, descendants, until

from florence2_sam2.client import InvalidRequest, Segmenter
from florence2_sam2.server.container.shared_memory import PREFIX
from florence2_sam2.server.launch.command import ADMIN_HEADER

pytestmark = [pytest.mark.server, pytest.mark.timeout(240)]

PICTURE = (Path(__file__).resolve().parents[2] / "docs" / "pictures" / "demo.jpg").read_bytes()
KEY = "a-key-of-twenty-letters"


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


# As the chart's pod: the first process of its own, no capabilities, nothing to write to but /tmp and /dev/shm.
CONFINED = """set -e
mount --make-rprivate /
mount -t tmpfs -o mode=1777,size=1g tmpfs /dev/shm
mount --bind "$1" /mnt
mount -t tmpfs -o mode=1777,size=1g tmpfs /tmp
mount -o remount,bind,ro /
shift
cd /tmp
exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all "$@"
"""
CONFINING = [
    "unshare",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "sh",
    "-c",
    CONFINED,
    "sh",
]


def may_confine() -> bool:
    """Whether this user may, and nothing that is needed lies in /tmp."""
    hidden = any(Path(path).resolve().is_relative_to("/tmp") for path in (sys.prefix, __file__))
    return (
        not hidden
        and not subprocess.run([*CONFINING, "/usr", "true"], capture_output=True, check=False).returncode
    )


class Container:
    """`python3 -m florence2_sam2.server.container`, ready."""

    def __init__(self, folder: Path, confined: bool = False) -> None:
        self._seen = Path("/mnt") if confined else folder
        programs = triton_program.real(folder, self._seen)
        key = folder / "key"
        key.write_text(KEY + "\n", encoding="utf-8")
        self.grpc, self.http, self.metrics = free_ports(3)
        self.output = folder / "output"
        command = [
            *([*CONFINING, str(folder)] if confined else []),
            *(sys.executable, "-m", "florence2_sam2.server.container"),
            *("--repository=demo", "--model-config=embedded", "--host=127.0.0.1"),
            *(f"--grpc-port={self.grpc}", f"--http-port={self.http}", f"--metrics-port={self.metrics}"),
            *("--grpc-connection-seconds=300", f"--admin-key-file={self._seen / 'key'}"),
            *("--", "--log-warning=true"),
        ]
        environ = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                command, env={**environ, "FLORENCE2_SAM2_MAX_CAPTION_BYTES": "100"}, stdout=file, stderr=file
            )
        until(lambda: "ready after" in self.text() or self.process.poll() is not None, 120)
        self.below = descendants(self.process.pid)
        if self.process.poll() is not None or len(self.below) < 5:
            self.end()
            pytest.fail(f"it does not become ready: {self.text()}")

    def text(self) -> str:
        return self.output.read_text("utf-8", "replace")

    def said(self) -> list[str]:
        """Its own lines, without Triton's."""
        return [line for line in self.text().splitlines() if line.startswith("florence2-sam2: ")]

    def get(self, path: str, **headers: str) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", b"", headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read()

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another command in the container."""
        return subprocess.run(
            [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=60, check=False
        )

    def regions(self) -> list[Path]:
        names = [
            part.partition("shm-region-prefix-name=")[2]
            for line in self.below.values()
            for part in line.split()
        ]
        prefixes = {name for name in names if name}
        assert all(prefix.startswith(PREFIX) for prefix in prefixes)
        return [path for prefix in prefixes for path in Path("/dev/shm").glob(f"{prefix}*")]

    def nothing_runs(self) -> bool:
        return not any(alive(pid) for pid in self.below)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        until(self.nothing_runs, 10)
        for region in self.regions():
            region.unlink(missing_ok=True)


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    started = Container(tmp_path)
    yield started
    started.end()


def test_it_serves_and_ends_after_what_is_in_flight(container: Container) -> None:
    # The probes of deploy/.
    url = ["--url", f"http://127.0.0.1:{container.http}"]
    for probe in (["--deep"], []):
        done = container.python("florence2_sam2", "health", *url, *probe)
        assert done.returncode == 0, done.stderr + container.text()
    assert (
        container.python(
            "florence2_sam2.server.container.idle", "--delay=0", f"--http-port={container.http}"
        ).returncode
        == 0
    )
    # The administration is closed, but for whoever has the key.
    with pytest.raises(urllib.error.HTTPError) as refused:
        container.get("/v2/repository/index")
    assert refused.value.code == 403
    assert b"segment" in container.get("/v2/repository/index", **{ADMIN_HEADER: KEY})
    # The autoscaler's number is there before anybody has waited.
    page = urllib.request.urlopen(f"http://127.0.0.1:{container.metrics}/metrics", timeout=5).read().decode()
    assert 'florence2_sam2_segment_waiting_seconds_total{priority="interactive"}' in page
    assert container.regions()

    answers: list[int] = []
    with Segmenter(f"127.0.0.1:{container.grpc}", retries=0, timeout=60) as segmenter:
        with pytest.raises(InvalidRequest, match="the limit is 100"):
            segmenter.segment(PICTURE, caption="word " * 30)  # longer than the environment allows
        calling = threading.Thread(
            target=lambda: answers.append(segmenter.segment(PICTURE, tiles=3, num_beams=3).width)
        )
        calling.start()
        waiting = [
            "florence2_sam2.server.container.idle",
            "--delay=0",
            "--wait=0",
            f"--http-port={container.http}",
        ]
        assert until(lambda: container.python(*waiting).returncode == 1, 20)  # something is in flight
        container.process.send_signal(signal.SIGTERM)
        assert container.process.wait(70) == 0
        calling.join()
    assert answers, container.text()
    assert container.said()[-1] == "florence2-sam2: stopped"
    assert not container.regions()
    assert container.nothing_runs()


def test_it_ends_when_a_models_process_has_died(container: Container) -> None:
    (victim,) = [pid for pid, line in container.below.items() if "/sam2_preprocess/" in line]
    os.kill(victim, signal.SIGKILL)
    began = monotonic()
    assert container.process.wait(30) == 1
    assert monotonic() - began < 10
    assert (
        container.said()[-1]
        == f"florence2-sam2: error: the process of sam2_preprocess has died (pid {victim})"
    )
    assert not container.regions()
    assert container.nothing_runs()


@pytest.mark.long
@pytest.mark.skipif(not may_confine(), reason="may not make namespaces, or /tmp has what is needed")
def test_it_needs_nothing_that_a_pod_does_not_have(tmp_path: Path) -> None:
    container = Container(tmp_path, confined=True)
    try:
        done = container.python(
            "florence2_sam2", "health", "--deep", "--url", f"http://127.0.0.1:{container.http}"
        )
        assert done.returncode == 0, done.stderr + container.text()
        (first,) = [pid for pid in container.below if _number_within(pid) == 1]
        assert "CapEff:\t0000000000000000" in Path(f"/proc/{first}/status").read_text()
        os.kill(first, signal.SIGTERM)
        assert container.process.wait(70) == 0
        assert container.said()[-1] == "florence2-sam2: stopped"
        assert "Read-only file system" not in container.text()
    finally:
        container.end()


def _number_within(pid: int) -> int:
    """A process's id in its own namespace."""
    (row,) = [row for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith("NSpid:")]
    return int(row.split()[-1])
