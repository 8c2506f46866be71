"""A Triton server of one's own, as a context manager: started, ready, and gone afterwards."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import tritonclient.grpc as grpc

from florence2_sam2.server.launch import checks, guard, processes
from florence2_sam2.server.launch.command import (
    ADMIN_HEADER,
    EXIT_TIMEOUT_SECONDS,
    GRPC_HEADER_PREFIX,
    Addresses,
    server_command,
    server_environment,
)
from florence2_sam2.server.launch.drain import drain
from florence2_sam2.server.launch.errors import StartError
from florence2_sam2.server.launch.log import failure_reason, loading_failure
from florence2_sam2.server.launch.probe import probe
from florence2_sam2.server.launch.wheel import assemble_backends, find_wheel
from florence2_sam2.server.settings import Settings

READY_SECONDS = 300.0
POLL_SECONDS = 0.05
KILL_SECONDS = 5.0
SHM_PREFIX = "florence2_sam2_"


def packaged_repository() -> Path:
    """The model repository that travels with the package, with the small demo models.

    It lies beside the `server` package, in the source tree as in the installed package.
    """
    return Path(__file__).parents[2] / "model_repository"


class EmbeddedServer:
    """One Triton server on this machine. Several may run side by side.

    Args:
        repository: a model repository that `export` wrote; None is the packaged one.
        host: address to listen on. Beyond loopback the server belongs behind a proxy, see the README.
        grpc_port, http_port, metrics_port: 0 takes a free one.
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
        host: str = "127.0.0.1",
        grpc_port: int = 0,
        http_port: int = 0,
        metrics_port: int = 0,
        settings: Settings | None = None,
        models: Sequence[str] | None = None,
        log: Path | None = None,
        check_hashes: bool = True,
    ) -> None:
        self.repository = (repository or packaged_repository()).resolve()
        self.settings = settings or Settings()
        self.admin_key = secrets.token_hex(16)
        self._host = host
        self._ports = {"--grpc-port": grpc_port, "--http-port": http_port, "--metrics-port": metrics_port}
        self._folder: Path | None = None
        self._models = models
        self._log = log
        self._check_hashes = check_hashes
        self._guard: subprocess.Popen[bytes] | None = None
        self._plan: guard.Plan | None = None
        self._addresses: Addresses | None = None
        self._server: int | None = None

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
        """HTTP headers that open the administrative endpoints (model configuration and repository, logging,
        …).
        """
        return {ADMIN_HEADER: self.admin_key}

    def start(self) -> None:
        """Check everything that can be checked, and start Triton; it is not ready yet."""
        if self._guard is not None:
            raise RuntimeError("the server has been started already")
        checks.check_python()
        self._wheel = find_wheel()
        checks.check_numpy()
        self._providers = checks.check_providers()
        self._environment = server_environment(
            self._wheel, checks.check_python3(), checks.find_libpython(), self.settings, os.environ
        )
        checks.check_shared_memory()
        checks.check_repository(self.repository, self._check_hashes)
        for flag, port in self._ports.items():
            if port:
                checks.check_port(self._host, port, flag)
        ports = [port or checks.free_port(self._host) for port in self._ports.values()]
        self._addresses = Addresses(self._host, *ports)
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
        client = grpc.InferenceServerClient(self.grpc_address)
        try:
            while not self._says_ready(client):
                self._check_running()
                failed = loading_failure(self._read_log())
                if failed:
                    raise StartError(f"{failed}; Triton's log: {self.log_path}")
                if time.monotonic() > end:
                    raise StartError(f"the server is not ready after {seconds:.0f} s, see {self.log_path}")
                time.sleep(POLL_SECONDS)
            index = client.get_model_repository_index(headers=self._grpc_headers)
        finally:
            client.close()
        probe(self.grpc_address, [row.name for row in index.models if row.state == "READY"])

    def check_alive(self) -> None:
        """Whether all of the server's processes run.

        Raises:
            StartError: Triton has ended, or one of its models' processes has: Triton itself goes on then,
                says READY,
                and answers that model's requests with errors.
        """
        self._check_running()
        dead = processes.dead_children(self._server) if self._server else []
        if dead:
            raise StartError(f"a model's process has died (pid {dead[0]}); Triton's log: {self.log_path}")

    def stop(self) -> None:
        """Refuse new requests, finish those in flight, end. The private folder goes, and with it the log in
        it.
        """
        if self._guard is None:
            return
        try:
            drain(self.grpc_address, self._grpc_headers, EXIT_TIMEOUT_SECONDS)
            self.request_stop()
            self._guard.wait()
        except BaseException:
            self.kill()
            raise
        clean = self._guard.returncode == 0
        self._clean_up(keep_log=not clean)

    def request_stop(self) -> None:
        """Begin to stop and return at once; a second request ends the server without waiting for what is in
        flight.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b"s")
            self._process.stdin.flush()

    def kill(self) -> None:
        """End it now, whatever is in flight. The log stays."""
        if self._guard is None:
            return
        self.request_stop()
        self.request_stop()
        try:
            self._guard.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()
        self._clean_up(keep_log=True)

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

    @property
    def _process(self) -> subprocess.Popen[bytes]:
        if self._guard is None:
            raise RuntimeError("the server has not been started")
        return self._guard

    def _check_running(self) -> None:
        if self._process.poll() is not None:
            reason = failure_reason(self._read_log()) or f"exit code {self._process.returncode}"
            raise StartError(f"the server has ended: {reason}; Triton's log: {self.log_path}")

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
        )
        self._plan = guard.Plan(command, str(log), str(self._folder), prefix, EXIT_TIMEOUT_SECONDS + 5)
        self._guard = subprocess.Popen(
            [sys.executable, "-m", guard.__name__, guard.to_json(self._plan)],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._environment,
            start_new_session=True,
        )
        self._server = self._read_pid()

    @property
    def _grpc_headers(self) -> dict[str, str]:
        return {GRPC_HEADER_PREFIX + ADMIN_HEADER: self.admin_key}

    def _read_pid(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise StartError("Triton could not be started, see the message above")
        return int(line)

    def _read_log(self) -> str:
        """What this run has logged."""
        with self.log_path.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode("utf-8", "replace")

    def _says_ready(self, client: grpc.InferenceServerClient) -> bool:
        try:
            return bool(client.is_server_ready(client_timeout=1))
        except grpc.InferenceServerException:
            return False

    def _clean_up(self, keep_log: bool) -> None:
        """What the guard has not done if it was killed, and the private folder."""
        assert self._plan is not None
        if self._server is not None:
            guard.clean_up(self._server, self._plan)
            self._server = None
        if not keep_log:
            shutil.rmtree(self._plan.folder, ignore_errors=True)
            self._folder = None
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        self._guard = None
