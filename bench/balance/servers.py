"""Real servers, each a `florence2-sam2 serve` at addresses that stay its own while it is killed and started again."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.balance.nginx import Servers
from bench.fullsize.serving import descendants
from florence2_sam2.server.launch.checks import hold_endpoint

HOST = "127.0.0.1"
ENDPOINTS = ("grpc", "http", "metrics")
READY_SECONDS, STOP_SECONDS, END_SECONDS = 180.0, 70.0, 20.0
# Nothing is answered from memory, so that each call is work.
SETTINGS = ("--memory-bytes", "0")

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # past a proxy of the environment


class ServerFailed(Exception):
    """A server has not started, or not ended; says what it has said."""


class Server:
    """One server.

    Args:
        folder: an empty one, for all that it writes.
        repository: what it serves; None: the packaged small models.
    """

    def __init__(
        self, name: str, folder: Path, repository: Path | None = None, settings: Sequence[str] = SETTINGS
    ) -> None:
        self.name, self._folder = name, folder
        folder.mkdir(parents=True)
        # Held, so that nobody is given them while the server is away.
        self._held: dict[str, socket.socket] = {end: hold_endpoint(end, HOST, 0) for end in ENDPOINTS}
        ports = {end: int(held.getsockname()[1]) for end, held in self._held.items()}
        self.grpc, self.http, self.metrics = (f"{HOST}:{ports[end]}" for end in ENDPOINTS)
        self._ready_file = folder / "ready.json"
        self._command = [sys.executable, "-m", "florence2_sam2", "serve", *settings]
        self._command += [word for end in ENDPOINTS for word in (f"--{end}-port", str(ports[end]))]
        self._command += ["--ready-file", str(self._ready_file)]
        self._command += ["--repository", str(repository)] if repository else []
        self._process: subprocess.Popen[bytes] | None = None
        self.start_seconds = 0.0

    def start(self) -> None:
        """Begin to start it."""
        self._ready_file.unlink(missing_ok=True)
        temporary = self._folder / "tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        self._began = time.monotonic()
        with (self._folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stderr=output,
                env={**os.environ, "TMPDIR": str(temporary)},
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Return when it answers.

        Raises:
            ServerFailed: it has ended, or is not ready in time.
        """
        assert self._process is not None
        while not self._ready_file.exists():
            if self._process.poll() is not None or time.monotonic() - self._began > READY_SECONDS:
                raise ServerFailed(f"{self.name} does not start: {self.output()[-2000:]}")
            time.sleep(0.05)
        self.start_seconds = time.monotonic() - self._began

    def kill(self) -> None:
        """Everything of it at once, as when its machine is lost."""
        if self._process is None:
            return
        launcher = self._process.pid
        pids = [launcher, *descendants(launcher)] if self._process.poll() is None else []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        if not until(lambda: not any(map(_lives, pids)), END_SECONDS):
            raise ServerFailed(f"{self.name}: processes of it are left")
        for region in Path("/dev/shm").glob(f"florence2_sam2_{launcher}_*"):
            region.unlink(missing_ok=True)

    def stop(self) -> None:
        """SIGTERM, and wait until it has finished what is in flight.

        Raises:
            ServerFailed: it has not ended well.
        """
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise ServerFailed(f"{self.name} does not end") from None
        self._process = None
        if code != 0:
            raise ServerFailed(f"{self.name} has ended with {code}: {self.output()[-2000:]}")

    def answered(self) -> float:
        """Calls of `segment` that it has answered well since its start; its page is up to a second behind."""
        return self._number("florence2_sam2_requests_total", 'model="segment"', 'code="OK"')

    def in_flight(self) -> int:
        """Calls of `segment` that it has now, as it says itself; 0 when it says nothing."""
        asked = urllib.request.Request(
            f"http://{self.http}/v2/models/segment_http/generate", data=b'{"health": true}', method="POST"
        )
        try:
            with _direct.open(asked, timeout=10) as answer:
                return int(json.loads(json.loads(answer.read())["result"])["in_flight"])
        except OSError:
            return 0

    def output(self) -> str:
        """What it has said on its terminal."""
        return (self._folder / "output").read_text("utf-8", "replace")

    def close(self) -> None:
        self.kill()
        for held in self._held.values():
            held.close()

    def _number(self, metric: str, *labels: str) -> float:
        try:
            with _direct.open(f"http://{self.metrics}/metrics", timeout=5) as page:
                text = page.read().decode()
        except OSError:
            return 0.0
        rows = re.findall(rf"^{metric}\{{(.*)\}} (\S+)$", text, re.MULTILINE)
        return sum(float(value) for shown, value in rows if all(label in shown for label in labels))


class Fleet:
    """Servers side by side; none is left after the context.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.servers: list[Server] = []

    def add(self, name: str, repository: Path | None = None) -> Server:
        """A server more, not started yet."""
        # Triton's Python backend starts its stubs through a shell, which a space in their path would lead astray.
        server = Server(name, self._folder / name.replace(" ", "-"), repository)
        self.servers.append(server)
        return server

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self.servers:
            server.close()

    def counts(self) -> dict[str, float]:
        """What each server has answered so far."""
        return {server.name: server.answered() for server in self.servers}


def start(servers: Sequence[Server]) -> None:
    """Start them together, and wait until all are ready."""
    for server in servers:
        server.start()
    for server in servers:
        server.wait_ready()


def places(servers: Sequence[Server]) -> Servers:
    """Where nginx finds them."""
    return Servers([server.http for server in servers], [server.grpc for server in servers])


def answered_since(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """Answers of each server between two counts; one that was started between them begins at 0."""
    return {
        name: count - before.get(name, 0.0) if count >= before.get(name, 0.0) else count
        for name, count in now.items()
    }


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether `condition` became true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _lives(pid: int) -> bool:
    try:
        stat = (Path("/proc") / str(pid) / "stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")
