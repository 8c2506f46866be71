"""`florence2-sam2 serve` as a user runs it, in a process of its own, for the tests that do something to it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
from calls import alive, descendants, infer, picture, png, shared_memory, until
from tritonclient.utils import InferenceServerException

LARGE = png(picture(1600, 1200))
BOX = np.array([[200, 200, 1000, 900]], np.float32)


def with_mount(mount: str) -> list[str]:
    """A command before a command, which then sees what the shell command `mount` has done, and nobody else does."""
    return ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh"]


def _may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(
        [*with_mount("mount -t tmpfs -o size=1m tmpfs /dev/shm"), "true"], capture_output=True
    )
    return tried.returncode == 0


needs_mounts = pytest.mark.skipif(not _may_mount(), reason="may not mount in a namespace of its own")


class Served:
    """A running `florence2-sam2 serve`.

    Args:
        folder: an empty one, for what it writes.
        arguments: beside those for free ports and the ready file.
        prefix: a command that runs it, and becomes it: `unshare …`.
    """

    def __init__(self, folder: Path, *arguments: str, prefix: Sequence[str] = ()) -> None:
        self.ready_file = folder / "ready.json"
        self.output = folder / "output"
        ports = [word for name in ("grpc", "http", "metrics") for word in (f"--{name}-port", "0")]
        command = [sys.executable, "-m", "florence2_sam2", "serve", *ports]
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                [*prefix, *command, "--ready-file", str(self.ready_file), *arguments],
                stderr=file,
                start_new_session=True,
            )
        self.below: Mapping[int, str] = {}

    def wait_ready(self) -> None:
        began = monotonic()
        assert until(lambda: self.ready_file.exists() or self.process.poll() is not None, 90), self.text()
        self.start_seconds = monotonic() - began
        assert self.process.poll() is None, self.text()
        self.addresses: dict[str, Any] = json.loads(self.ready_file.read_text())
        self.below = descendants(self.process.pid)

    def end(self) -> None:
        """Kill it, whatever it does, and see that nothing of it is left."""
        if self.process.poll() is None:
            self.below = {**self.below, **descendants(self.process.pid)}
        self.process.kill()
        self.process.wait()
        assert until(self.nothing_left, 10)
        if hasattr(self, "addresses"):  # a killed server keeps its log
            shutil.rmtree(Path(self.addresses["log"]).parent, ignore_errors=True)

    @property
    def restart_seconds(self) -> float:
        """What a restart may take: 10 s where the machine has nothing else to do; on a busy one a few starts' time,
        since it may be busier now, with those who wait for the server among others.
        """
        return max(10, 4 * self.start_seconds)

    def text(self) -> str:
        return self.output.read_text()

    def pid_of(self, part: str) -> int:
        return next(pid for pid, line in descendants(self.process.pid).items() if part in line)

    def process_of(self, model: str) -> int:
        """The process of a python model; `tritonserver` is Triton itself."""
        return self.pid_of("bin/tritonserver --" if model == "tritonserver" else f"/{model}/1/model.py")

    def segment(self, timeout: float = 60) -> dict[str, Any]:
        return infer(self.addresses["grpc"], "segment", {"image": png(picture())}, ["result"], timeout)

    def nothing_left(self) -> bool:
        return not any(map(alive, self.below)) and not shared_memory(self.process.pid)

    def slow_segment(self) -> dict[str, Any]:
        """As `slow`, through `segment`, which calls the other models itself."""
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
