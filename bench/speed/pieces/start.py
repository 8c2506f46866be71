"""From the command to a server that has answered a real request."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.speed.bench import Bench
from bench.speed.figures import Spread
from bench.speed.results import Result, Row

SMALL, FULL = 6.0, 20.0  # seconds
PATIENCE = 600.0


def run(bench: Bench) -> Result:
    bench.stop_server()
    bench.stop_reference()
    for file in bench.subject.repository.rglob("*.onnx*"):  # a warm disk: what is measured is the start
        file.read_bytes()
    seconds = [start(bench.subject.repository) for _ in range(bench.times(3, 3, 1))]
    spread = Spread.of(seconds)
    target = FULL if bench.subject.is_full else SMALL
    row = Row("`serve` to ready, warm disk", spread.median, "s", target, True, spread.least, spread.most)
    return Result([row], [], {"seconds": seconds})


def start(repository: Path) -> float:
    """Seconds from running `florence2-sam2 serve` until it says that it is ready. It is stopped again.

    Raises:
        RuntimeError: it ends, or takes too long.
    """
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready"
        command = [sys.executable, "-m", "florence2_sam2", "serve", "--repository", str(repository)]
        command += ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0", "--ready-file", str(ready)]
        began = time.perf_counter()
        with (
            open(os.devnull, "wb") as nothing,
            subprocess.Popen(command, stdout=nothing, stderr=nothing) as server,
        ):
            try:
                while not (ready.exists() and ready.stat().st_size):
                    if server.poll() is not None:
                        raise RuntimeError(f"`serve` has ended with exit code {server.returncode}")
                    if time.perf_counter() - began > PATIENCE:
                        raise RuntimeError(f"`serve` was not ready after {PATIENCE:.0f} s")
                    time.sleep(0.01)
                return time.perf_counter() - began
            finally:
                server.send_signal(signal.SIGTERM)
                server.wait()
