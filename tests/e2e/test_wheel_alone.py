"""The wheel alone, in an empty directory, serves and segments; its client alone runs with numpy 2."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "pictures" / "demo.jpg"

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]


def run(*command: str | Path, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0 or not check, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    built = os.environ.get("FLORENCE2_SAM2_DIST")
    if built:
        return Path(built)
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    return folder


def install(wheel: str, python: str, folder: Path, *more: str) -> Path:
    """Install into a new environment; returns its `bin`."""
    run(python, "-m", "venv", folder, cwd=folder.parent)
    pip = (folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, wheel, *more, cwd=folder.parent)
    return folder / "bin"


def newest_python() -> str:
    """The newest interpreter that runs here: Python 3.13 where it can be had."""
    for name in ("python3.13", "python3.12"):
        path = shutil.which(name)
        if (
            path
            and subprocess.run([path, "-c", "import venv"], capture_output=True, check=False).returncode == 0
        ):
            return path
    return sys.executable


def test_both_distributions_carry_the_repository(dist: Path) -> None:
    wheel = zipfile.ZipFile(next(dist.glob("*.whl"))).namelist()
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        sdist = [name.partition("/")[2] for name in archive.getnames()]
    for path in (
        "segment/config.pbtxt",
        "segment/1/model.py",
        "florence2/1/decoder.onnx",
        "florence2/1/tokenizer.json",
        "sam2_image_encoder/1/model.onnx",
        "sam2_image_encoder/configs/embedded.pbtxt",
        "sam2/1/manifest.json",
    ):
        assert f"florence2_sam2/model_repository/{path}" in wheel
        assert f"model_repository/{path}" in sdist
    assert "florence2_sam2/py.typed" in wheel
    assert not [name for name in wheel if name.startswith(("tests", "bench")) or "__pycache__" in name]


def test_the_wheel_serves_and_segments_in_an_empty_directory(dist: Path, tmp_path: Path) -> None:
    wheel = next(dist.glob("*.whl"))
    bin_folder = install(
        f"{wheel}[server]", sys.executable, tmp_path / "venv", "-c", str(ROOT / "constraints.txt")
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    ready, log = tmp_path / "ready.json", tmp_path / "serve.log"
    ports = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")
    with log.open("w") as output:
        server = subprocess.Popen(
            [bin_folder / "florence2-sam2", "serve", *ports, "--ready-file", ready],
            cwd=empty,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 120
        while not ready.exists():
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        url = json.loads(ready.read_text())["grpc"]
        done = run(bin_folder / "florence2-sam2", "segment", PICTURE, "--url", url, "--json", cwd=empty)
        assert json.loads(done.stdout)["objects"]
        client = install(str(wheel), newest_python(), tmp_path / "client", "numpy>=2")
        code = (
            "import sys, numpy; from florence2_sam2.client import Segmenter;"
            "assert int(numpy.__version__.split('.')[0]) >= 2;"
            "result = Segmenter(sys.argv[1]).segment(sys.argv[2]); result.overlay(sys.argv[2]).save('overlay.png');"
            "print(len(result.objects))"
        )
        done = run(client / "python", "-c", code, url, PICTURE, cwd=empty)
        assert int(done.stdout) > 0
        packages = run(client / "python", "-m", "pip", "list", "--format=freeze", cwd=empty).stdout
        assert not {"onnxruntime", "torch", "opencv-python-headless", "nvidia-pytriton"} & {
            line.partition("==")[0] for line in packages.splitlines()
        }
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    assert server.returncode == 0, log.read_text()
    assert sorted(empty.iterdir()) == [empty / "overlay.png"]
