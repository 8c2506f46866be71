"""The process between the launcher and Triton: `python -m florence2_sam2.server.launch.guard PLAN`.

It starts Triton, and ends it when the launcher says so or is gone, killed or not: then nothing of the
server is left, neither a process nor shared memory. Its standard input is the launcher's end of a pipe: a
line asks for a clean stop, the end of the file means that the launcher has died. PLAN is a `Plan` as JSON.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
POLL_SECONDS = 0.1
ORPHAN_SECONDS = 2.0  # for Triton to end by itself when the launcher has died


@dataclass(frozen=True)
class Plan:
    """What to run. `folder` is the server's private folder; all shared memory names begin with
    `shm_prefix`.
    """

    command: list[str]
    log: str
    folder: str
    shm_prefix: str
    drain_seconds: float


def main(argv: list[str]) -> int:
    """Run the server to its end; its exit code (negative: the signal that ended it)."""
    plan = Plan(**json.loads(argv[0]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's business
    # Processes that lose their parent become children of the guard, which waits for them: in a container
    # the first process often waits for none, and they would stay as zombies.
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    with open(plan.log, "ab") as log:
        server = subprocess.Popen(
            plan.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=end_with_parent,
        )
    print(server.pid, flush=True)
    try:
        _wait(server, plan)
    finally:
        clean_up(server.pid, plan)
        code = server.wait()
        _reap()
    return code


def clean_up(server: int, plan: Plan) -> None:
    """End what is left of the server's process group, and remove its shared memory and private folder but
    the log.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server, signal.SIGKILL)
    for region in SHARED_MEMORY.glob(f"{plan.shm_prefix}*"):
        region.unlink(missing_ok=True)
    shutil.rmtree(Path(plan.folder) / "backends", ignore_errors=True)


def to_json(plan: Plan) -> str:
    return json.dumps(dataclasses.asdict(plan))


def _wait(server: subprocess.Popen[bytes], plan: Plan) -> None:
    while server.poll() is None:
        readable, _, _ = select.select([sys.stdin], [], [], POLL_SECONDS)
        if readable:
            asked = os.read(sys.stdin.fileno(), 1)
            server.send_signal(signal.SIGTERM)
            _wait_for_end(server, plan.drain_seconds if asked else ORPHAN_SECONDS)
            return


def _wait_for_end(server: subprocess.Popen[bytes], seconds: float) -> None:
    """Until the server has ended, the time is over, or the launcher has died or asks for haste."""
    end = time.monotonic() + seconds
    orphaned = False
    while server.poll() is None and time.monotonic() < end:
        readable, _, _ = select.select([] if orphaned else [sys.stdin], [], [], POLL_SECONDS)
        if readable:
            if os.read(sys.stdin.fileno(), 1):
                return
            orphaned = True
            end = min(end, time.monotonic() + ORPHAN_SECONDS)


def end_with_parent() -> None:
    """Should the guard itself be killed, Triton gets a SIGTERM from the kernel."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value)


def _reap() -> None:
    """Wait for the processes that the server has left; they have been killed."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
