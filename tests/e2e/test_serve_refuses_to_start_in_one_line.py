"""What keeps the server from starting is said in one line, within ten seconds, with a non-zero exit code."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from calls import shared_memory

from florence2_sam2.server import manifest
from florence2_sam2.server.manifest import packaged_repository

pytestmark = [pytest.mark.server, pytest.mark.timeout(60)]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    copy = tmp_path / "repository"
    shutil.copytree(packaged_repository(), copy)
    return copy


def refusal(*arguments: str | Path, **environment: str) -> str:
    """The one line that `serve` ends with."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "florence2_sam2", "serve", *map(str, arguments)],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    _, output = process.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert process.returncode == 1, output
    errors = [line for line in output.splitlines() if line.startswith("florence2-sam2: error: ")]
    assert len(errors) == 1, output
    assert "Traceback" not in output
    assert not shared_memory(process.pid)
    return errors[0].removeprefix("florence2-sam2: error: ")


def free_ports() -> list[str]:
    return [word for name in ("grpc", "http", "metrics") for word in (f"--{name}-port", "0")]


def test_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        line = refusal(*free_ports(), "--http-port", port)
    assert line.startswith(f"127.0.0.1:{port} cannot be used")
    assert "--http-port" in line


def test_half_a_repository(repository: Path) -> None:
    shutil.rmtree(repository / "sam2")
    line = refusal(*free_ports(), "--repository", repository)
    assert line.startswith("the sam2 half of the model repository is missing")


def test_a_corrupt_model_file(repository: Path) -> None:
    name = next(name for name in manifest.read_sam2(repository).files if "decoder" in name)
    path = repository / name
    path.write_bytes(path.read_bytes()[:1000])
    assert refusal(*free_ports(), "--repository", repository).endswith("(its SHA-256 differs): export again")
    line = refusal(*free_ports(), "--repository", repository, "--skip-hashes")
    assert line.startswith("model sam2_mask_decoder: ")
    assert "triton.log" in line
    log = Path(line.rpartition(": ")[2])
    assert "failed to load" in log.read_text()
    shutil.rmtree(log.parent)


def test_a_missing_provider() -> None:
    line = refusal(*free_ports(), FLORENCE2_SAM2_PROVIDERS="NoSuchExecutionProvider")
    assert line.startswith("onnxruntime has no NoSuchExecutionProvider")


def test_a_wrong_setting() -> None:
    assert refusal(*free_ports(), FLORENCE2_SAM2_MAX_QUEUE="many").startswith("FLORENCE2_SAM2_MAX_QUEUE")
