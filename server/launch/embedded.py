"""A Triton server of one's own, as a context manager: started, ready, and gone afterwards."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from florence2_sam2.server.launch import checks, guard, probe, processes
from florence2_sam2.server.launch.command import (
    ADMIN_HEADER,
    EXIT_TIMEOUT_SECONDS,
    Addresses,
    server_command,
    server_environment,
)
from florence2_sam2.server.launch.connection import Connection, NoAnswer, Refused
from florence2_sam2.server.launch.drain import drain, states
from florence2_sam2.server.launch.errors import StartError
from florence2_sam2.server.launch.log import failure_reason, loading_failure
from florence2_sam2.server.launch.process import GuardedProcess
from florence2_sam2.server.launch.tls import Tls, check_tls
from florence2_sam2.server.launch.watch import Health
from florence2_sam2.server.launch.wheel import assemble_backends, find_wheel
from florence2_sam2.server.manifest import packaged_repository
from florence2_sam2.server.settings import Settings

READY_SECONDS = 300.0
POLL_SECONDS = 0.05
SHM_PREFIX = "florence2_sam2_"


class EmbeddedServer:
    """One Triton server on this machine. Several may run side by side.

    Args:
        repository: a model repository that `export` wrote; None is the packaged one.
        grpc_host, http_host, metrics_host: addresses to listen on. HTTP beyond loopback belongs behind a proxy, see
            docs/http.md.
        grpc_port, http_port, metrics_port: 0 takes a free one.
        tls: of gRPC; None is without.
        settings: limits, handed on to the models.
        models: load only these; None loads all.
        log: file for Triton's log; None puts it into a private folder that a clean stop removes.
        check_hashes: compare the model files' contents with the manifests.

    Raises:
        StartError: from `start` and `wait_ready`; one line that says what is wrong and what to do.
    """

    def __init__(
        self,
        repository: Path | None = None,
        *,
        grpc_host: str = "127.0.0.1",
        http_host: str = "127.0.0.1",
        metrics_host: str = "127.0.0.1",
        grpc_port: int = 0,
        http_port: int = 0,
        metrics_port: int = 0,
        tls: Tls | None = None,
        settings: Settings | None = None,
        models: Sequence[str] | None = None,
        log: Path | None = None,
        check_hashes: bool = True,
    ) -> None:
        self.repository = (repository or packaged_repository()).resolve()
        self.settings = (settings or Settings()).with_absolute_paths()
        self.admin_key = secrets.token_hex(16)
        self._endpoints = {"grpc": (grpc_host, grpc_port), "http": (http_host, http_port)}
        self._endpoints["metrics"] = metrics_host, metrics_port
        self._tls = tls
        self._folder: Path | None = None
        self._models = models
        self._loaded: list[str] = []
        self._names: dict[int, str] = {}
        self._held: list[socket.socket] = []
        self._log = log
        self._check_hashes = check_hashes
        self._process: GuardedProcess | None = None
        self._plan: guard.Plan | None = None
        self._addresses: Addresses | None = None
        self._ready = False

    @property
    def addresses(self) -> Addresses:
        """Where the started server listens."""
        if self._addresses is None:
            raise RuntimeError("the server has not been started")
        return self._addresses

    @property
    def grpc_address(self) -> str:
        """host:port for a gRPC client."""
        return self.addresses.grpc

    @property
    def http_address(self) -> str:
        """host:port for an HTTP client."""
        return self.addresses.http

    @property
    def metrics_address(self) -> str:
        """host:port of the Prometheus metrics, at /metrics."""
        return self.addresses.metrics

    @property
    def log_path(self) -> Path:
        """Triton's log, with what the models print."""
        if self._plan is None:
            raise RuntimeError("the server has not been started")
        return Path(self._plan.log)

    @property
    def shm_prefix(self) -> str:
        """What the names of this server's shared memory begin with."""
        if self._plan is None:
            raise RuntimeError("the server has not been started")
        return self._plan.shm_prefix

    @property
    def admin_headers(self) -> dict[str, str]:
        """HTTP headers that open the administrative endpoints (model repository, logging, …)."""
        return {ADMIN_HEADER: self.admin_key}

    def start(self) -> None:
        """Check everything that can be checked, and start Triton; it is not ready yet."""
        if self._process is not None:
            raise RuntimeError("the server has been started already")
        checks.check_python()
        self._wheel = find_wheel()
        checks.check_numpy()
        self._providers = checks.check_providers()
        self._environment = server_environment(
            self._wheel, checks.check_python3(), checks.find_libpython(), self.settings, os.environ
        )
        checks.check_shared_memory()
        checks.check_telemetry(self.settings)
        checks.check_features(self.settings, embedded=True, providers=self._providers)
        checks.check_places(self.repository, Path(tempfile.gettempdir()))
        checks.check_repository(self.repository, self._check_hashes)
        if self._tls:
            check_tls(self._tls)
        self._held = [checks.hold_endpoint(name, *asked) for name, asked in self._endpoints.items()]
        grpc, http, metrics = (sock.getsockname() for sock in self._held)
        self._addresses = Addresses(grpc[0], http[0], metrics[0], grpc[1], http[1], metrics[1])
        self._launch()

    def restart(self) -> None:
        """End what is left of the server and start it again, at the same addresses and with the same log."""
        self.kill()
        self._launch()

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Until a real request has been answered.

        Raises:
            StartError: a model cannot be loaded, the server has ended, or the time is over.
        """
        end = time.monotonic() + seconds
        while not self._says_ready():
            self._check_running()
            failed = loading_failure(self._read_log())
            if failed:
                raise StartError(f"{failed}; Triton's log: {self.log_path}")
            if time.monotonic() > end:
                raise StartError(f"the server is not ready after {seconds:.0f} s, see {self.log_path}")
            time.sleep(POLL_SECONDS)
        try:
            found = states(self._connection)
        except (NoAnswer, Refused) as error:
            raise StartError(f"the server does not say which models it has: {error}") from None
        self._loaded = [model for model, state in found.items() if state == "READY"]
        probe.first(self._connection, self._loaded)
        self._names = self._check_running().models()
        self._ready = True

    def check_alive(self) -> None:
        """Whether all of the server's processes run.

        Raises:
            StartError: Triton has ended, or one of its models' processes has: Triton itself goes on then,
                says READY, and answers that model's requests with errors.
        """
        self._check_running()
        for pid in processes.dead(self._names):
            model = self._names[pid]
            raise StartError(f"the process of {model} has died (pid {pid}); Triton's log: {self.log_path}")

    def health(self) -> Health:
        """What the models say of themselves that answer calls, without any work.

        Raises:
            NoAnswer, Refused: one is not well, or does not answer.
        """
        return probe.health(self._connection, self._loaded)

    def probe(self, seconds: float) -> None:
        """Real work for Florence-2 and SAM2, past the memory of `segment`.

        Raises:
            Hangs, NoAnswer, Refused: see `probe.again`.
        """
        probe.again(self._connection, self._loaded, seconds)

    def stop(self) -> None:
        """Refuse new requests, finish those in flight, end. The private folder goes with the log in it.

        A server that is not ready yet, or an interrupted stop, is ended at once.
        """
        if self._process is None:
            return
        clean = True
        if self._ready:
            try:
                drain(self._connection, EXIT_TIMEOUT_SECONDS)
                self._process.request_stop()
                clean = self._process.wait() == 0
            except BaseException:
                self.kill()
                raise
            self._process = None
        self.kill()
        if clean and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        for sock in self._held:
            sock.close()

    def kill(self) -> None:
        """End it now, whatever is in flight. The log stays."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _check_running(self) -> GuardedProcess:
        if self._process is None:
            raise RuntimeError("the server has not been started")
        code = self._process.exit_code()
        if code is not None:
            reason = failure_reason(self._read_log()) or f"exit code {code}"
            raise StartError(f"the server has ended: {reason}; Triton's log: {self.log_path}")
        return self._process

    def _launch(self) -> None:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="florence2-sam2-"))
        log = self._log.resolve() if self._log else self._folder / "triton.log"
        self._log_start = log.stat().st_size if log.exists() else 0
        prefix = f"{SHM_PREFIX}{os.getpid()}_{secrets.token_hex(4)}_"
        command = server_command(
            self._wheel,
            assemble_backends(self._wheel, self._folder),
            self.repository,
            self.addresses,
            prefix,
            self.admin_key,
            self._models,
            gpu_metrics=self._providers[0] != "CPUExecutionProvider",
            tls=self._tls,
        )
        self._plan = guard.Plan(command, str(log), str(self._folder), prefix, EXIT_TIMEOUT_SECONDS + 5)
        self._ready, self._names = False, {}
        self._process = GuardedProcess(self._plan, self._environment)
        self._process.wait_started()

    @property
    def _connection(self) -> Connection:
        return Connection(self.http_address, self.admin_headers)

    def _read_log(self) -> str:
        """What this run has logged."""
        with self.log_path.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode("utf-8", "replace")

    def _says_ready(self) -> bool:
        try:
            self._connection.get("/v2/health/ready", seconds=1)
        except (NoAnswer, Refused):
            return False
        return True
