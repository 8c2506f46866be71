"""The container's Triton as a process of this one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from florence2_sam2.server.launch import guard, probe, processes
from florence2_sam2.server.launch.command import ADMIN_HEADER, EXIT_TIMEOUT_SECONDS
from florence2_sam2.server.launch.connection import Connection, NoAnswer, Refused
from florence2_sam2.server.launch.drain import drain, states
from florence2_sam2.server.launch.errors import StartError
from florence2_sam2.server.launch.watch import Health

# For loading the models and the first real request. The chart's startup probe waits as long.
READY_SECONDS = 600.0
POLL_SECONDS = 0.1
END_SECONDS = EXIT_TIMEOUT_SECONDS + 5.0
# The longest that `stop` takes: finishing what is in flight, then Triton's own end.
STOP_SECONDS = EXIT_TIMEOUT_SECONDS + END_SECONDS


class ContainerServer:
    """Started by the constructor. Its log is this process's output.

    Args:
        http_address: where it will listen for HTTP, as this machine reaches it.
        admin_key: what opens the administration.

    Raises:
        StartError: there is no such program.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], http_address: str, admin_key: str
    ) -> None:
        self._connection = Connection(http_address, {ADMIN_HEADER: admin_key})
        self._loaded: list[str] = []
        self._names: dict[int, str] = {}
        self._ready = False
        try:
            self._process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                process_group=0,  # a Ctrl-C in the terminal reaches this process alone
                preexec_fn=guard.end_with_parent,
            )
        except OSError as error:
            raise StartError(f"{command[0]} cannot be started ({error.strerror})") from None

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Until a real request has been answered.

        Raises:
            StartError: a model cannot be loaded, Triton has ended, or the time is over.
        """
        end = time.monotonic() + seconds
        while not self._says_ready():
            self._check_running()
            if time.monotonic() > end:
                raise StartError(f"Triton is not ready after {seconds:.0f} s, see its log above")
            time.sleep(POLL_SECONDS)
        try:
            found = states(self._connection)
        except (NoAnswer, Refused) as error:
            raise StartError(f"Triton does not say which models it has: {error}") from None
        self._loaded = [model for model, state in found.items() if state == "READY"]
        probe.first(self._connection, self._loaded)
        self._names = processes.models(self._process.pid)
        self._ready = True

    def check_alive(self) -> None:
        """Whether all processes run.

        Raises:
            StartError: Triton has ended, or the process of a model: Triton itself says READY then.
        """
        self._check_running()
        for pid in processes.dead(self._names):
            raise StartError(f"the process of {self._names[pid]} has died (pid {pid})")

    def health(self) -> Health:
        """Raises NoAnswer, Refused: it is not well."""
        return probe.health(self._connection, self._loaded)

    def probe(self, seconds: float) -> None:
        """Raises Hangs, NoAnswer, Refused: it cannot do its work within `seconds`."""
        probe.again(self._connection, self._loaded, seconds)

    def restart(self) -> None:
        raise StartError("whoever runs the container starts it again")

    def stop(self) -> None:
        """Refuse new requests, finish those in flight, end. One that is not ready yet is ended at once."""
        if self._ready:
            drain(self._connection, EXIT_TIMEOUT_SECONDS)
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End it now with all its models' processes, whatever is in flight."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _check_running(self) -> None:
        code = self._process.poll()
        if code is not None:
            raise StartError(f"Triton has ended with exit code {code}, see its log above")

    def _says_ready(self) -> bool:
        try:
            self._connection.get("/v2/health/ready", seconds=1)
        except (NoAnswer, Refused):
            return False
        return True
