"""What keeps the server from starting is said in one line, within ten seconds, with a non-zero exit code."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from calls import shared_memory
from serving import needs_mounts, with_mount

from florence2_sam2.server import manifest
from florence2_sam2.server.manifest import packaged_repository

pytestmark = [pytest.mark.server, pytest.mark.timeout(60)]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    copy = tmp_path / "repository"
    shutil.copytree(packaged_repository(), copy)
    return copy


def refusal(
    *arguments: str | Path, python: str = sys.executable, prefix: Sequence[str] = (), **environment: str
) -> str:
    """The one line that `serve` ends with."""
    began = time.monotonic()
    process = subprocess.Popen(
        [*prefix, python, "-m", "florence2_sam2", "serve", *map(str, arguments)],
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


def test_a_place_that_triton_cannot_start_its_models_in(tmp_path: Path) -> None:
    spaced = tmp_path / "my models"
    shutil.copytree(packaged_repository(), spaced / "repository")
    said = "has ' ' in it, which Triton cannot start Python models with: choose another place"
    assert f"{spaced}/repository {said}" in refusal("--repository", spaced / "repository", *free_ports())
    assert f"{spaced} {said}" in refusal(*free_ports(), TMPDIR=str(spaced))


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


def test_a_missing_model_file(repository: Path) -> None:
    path = repository / "sam2_image_encoder" / "1" / "model.onnx"
    path.unlink()
    line = refusal(*free_ports(), "--repository", repository)
    assert line == f"{path} is missing, sam2's manifest names it: export again"


def test_a_model_file_with_another_byte(repository: Path) -> None:
    path = repository / "florence2" / "1" / "decoder.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    line = refusal(*free_ports(), "--repository", repository)
    assert line == f"{path} has changed since the export (its SHA-256 differs): export again"


def test_numpy_2(tmp_path: Path) -> None:
    """Found first on the path, as an environment shows it in which `pip install numpy` has taken the newest."""
    installed = tmp_path / "numpy-2.1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 2.1.0\n")
    line = refusal(*free_ports(), PYTHONPATH=str(tmp_path))
    assert line.endswith("with numpy 1 only, this is 2.1.0: pip install 'numpy<2'")


@needs_mounts
def test_no_libpython(tmp_path: Path) -> None:
    """With a Python that does not need it itself, such as Debian's; a virtual environment of it, with our packages."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    name = f"libpython{version}.so.1.0"
    hide = " && ".join(
        f"mount --bind /dev/null {path}"
        for folder in ("/lib", "/usr/lib", "/usr/local/lib", sys.base_prefix + "/lib")
        for path in sorted({path.resolve() for path in Path(folder).glob(f"**/{name}")})
    )
    prefix = with_mount(hide or "true")
    for python in (sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
        if (
            Path(python).exists()
            and not subprocess.run([*prefix, python, "-c", ""], capture_output=True).returncode
        ):
            break
    else:
        pytest.skip("each Python here is itself linked with libpython")
    packages = tmp_path / "lib" / f"python{version}" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "ours.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    (tmp_path / "pyvenv.cfg").write_text(f"home = {Path(python).resolve().parent}\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(Path(python).resolve())
    line = refusal(*free_ports(), python=str(tmp_path / "bin" / "python3"), prefix=prefix)
    assert line == f"{name} is missing, which Triton's python models need: apt-get install libpython{version}"


@needs_mounts
def test_too_little_shared_memory() -> None:
    line = refusal(*free_ports(), prefix=with_mount("mount -t tmpfs -o size=16m tmpfs /dev/shm"))
    assert line.startswith("/dev/shm has 16 MB free, at least 48 MB are needed: docker run --shm-size=1g")


def test_a_missing_provider() -> None:
    line = refusal(*free_ports(), FLORENCE2_SAM2_PROVIDERS="NoSuchExecutionProvider")
    assert line.startswith("onnxruntime has no NoSuchExecutionProvider")


def test_an_access_log_that_cannot_be_written(tmp_path: Path) -> None:
    said = "access_log: the file cannot be written (No such file or directory)"
    assert refusal("--access-log", tmp_path / "nowhere" / "calls", *free_ports()) == said


def test_features_on_a_gpu_that_no_model_uses() -> None:
    line = refusal("--features-on-gpu", *free_ports())
    assert line.startswith("features_on_gpu: embedded models hand their answers over in host memory")


def test_a_wrong_setting() -> None:
    assert refusal(*free_ports(), FLORENCE2_SAM2_MAX_QUEUE="many").startswith("FLORENCE2_SAM2_MAX_QUEUE")
