"""The launcher's end of a guarded Triton: see guard.py for the other end."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Mapping

from florence2_sam2.server.launch import guard, processes
from florence2_sam2.server.launch.errors import StartError

KILL_SECONDS = 5.0


class GuardedProcess:
    """A running Triton with its guard. When this object's process dies, both end by themselves."""

    def __init__(self, plan: guard.Plan, environment: Mapping[str, str]) -> None:
        self.plan = plan
        self._pid: int | None = None
        self._guard = subprocess.Popen(
            [sys.executable, "-m", guard.__name__, guard.to_json(plan)],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(environment),
            # Python puts the working directory first on its path, in the models' processes too: in the caller's a
            # folder such as this project's own checkout would hide installed packages.
            cwd=plan.folder,
            start_new_session=True,  # a Ctrl-C in the terminal reaches the launcher alone
        )

    def wait_started(self) -> None:
        """Until Triton's process exists.

        Raises:
            StartError: it could not be started.
        """
        assert self._guard.stdout is not None
        line = self._guard.stdout.readline()
        if not line:
            self._guard.wait()
            raise StartError("Triton could not be started, see the message above")
        self._pid = int(line)

    def exit_code(self) -> int | None:
        """None while it runs; negative when a signal has ended it."""
        return self._guard.poll()

    def models(self) -> dict[int, str]:
        """Process ids of the models' processes, with the models' names."""
        return processes.models(self._pid) if self._pid else {}

    def request_stop(self) -> None:
        """Begin to stop and return at once; a second request ends it without waiting for what is in flight."""
        assert self._guard.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.write(b"s")

    def wait(self) -> int:
        """Until it has ended; its exit code."""
        code = self._guard.wait()
        self._clean_up()
        return code

    def kill(self) -> None:
        """End it now, whatever is in flight."""
        self.request_stop()
        self.request_stop()
        try:
            self._guard.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()
        self._clean_up()

    def _clean_up(self) -> None:
        if self._pid is not None and self._guard.returncode < 0:  # the guard was killed, and has done nothing
            guard.clean_up(self._pid, self.plan)
        for pipe in (self._guard.stdin, self._guard.stdout):
            if pipe:
                pipe.close()
