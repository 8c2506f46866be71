"""The exports that are measured, and the provider that they run on."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu.side import Side
from bench.speed.pictures import picture
from bench.speed.worker import SERVERS_ENVIRONMENT, Worker
from florence2_sam2.server.manifest import read_sam2
from florence2_sam2.server.onnx_session import CPU, PROVIDER_OPTIONS_VARIABLE, PROVIDERS_VARIABLE

PRECISIONS = ("fp32", "fp16")


class ExportFailed(Exception):
    """The export did not come to its end."""


@dataclass(frozen=True)
class Job:
    """`florence2` and `sam2` are checkpoints. `fixed_boxes`: they have random weights and find no box of their own.
    `given` takes the place of all exports. `quick`: as few repeats as show that everything works.
    """

    florence2: str
    sam2: str
    output: Path
    provider: str
    fixed_boxes: bool = False
    given: Path | None = None
    quick: bool = False

    def times(self, count: int) -> int:
        return 1 if self.quick else count

    def repositories(self) -> dict[str, Path]:
        """The repository in each precision, exported if it is not there yet."""
        if self.given is not None:
            return {read_sam2(self.given).precision: self.given}
        return {precision: self.repository(precision) for precision in PRECISIONS}

    def repository(self, precision: str) -> Path:
        """With attention in parts, which TensorRT takes too.

        Raises:
            ExportFailed: it could not be exported.
        """
        folder = self.output / f"export-{precision}"
        if not (folder / "sam2" / "1" / "manifest.json").exists():
            arguments = ["--florence2", self.florence2, "--sam2", self.sam2, "--output", str(folder)]
            export(*arguments, "--precision", precision, "--attention", "parts")
        return folder

    def picture(self, number: int = 0) -> bytes:
        return picture(number, 640, 480)

    def side(self, repository: Path, provider: str | None = None, told: str = "") -> Worker:
        """A `Side` on `repository`, whose sessions run on the job's provider or another one, with these options."""
        environment = {**SERVERS_ENVIRONMENT, PROVIDERS_VARIABLE: provider or self.provider}
        return Worker(Side, repository, environment={**environment, PROVIDER_OPTIONS_VARIABLE: told})

    def is_on_gpu(self) -> bool:
        return self.provider != CPU


def export(*arguments: str) -> str:
    """Run `florence2-sam2 export`; returns what it has printed.

    Raises:
        ExportFailed: with its last line.
    """
    command: list[Any] = [sys.executable, "-m", "florence2_sam2", "export", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise ExportFailed((done.stdout.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return done.stdout
