"""The documentation's code does what it says: each page's blocks run in order, in one folder, against a real server."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pages
import pytest
from PIL import Image

from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.training.scenes import draw_scene

pytestmark = pytest.mark.server

PICTURE = pages.DOCS / "pictures" / "demo.jpg"
SCENES = 3
FIRST_SEED = 9_100_000  # far from those of the training's and of the evaluation's scenes
SHELL_SECONDS = 120
RUN = ("python", "sh")


def addresses(server: EmbeddedServer) -> dict[str, str]:
    """What pages call the server, and where it is."""
    return {
        "localhost:8001": server.grpc_address,
        "localhost:8000": server.http_address,
        "localhost:8002": server.metrics_address,
    }


@pytest.fixture(scope="module")
def drawn() -> list[Image.Image]:
    rngs = [np.random.default_rng(FIRST_SEED + index) for index in range(SCENES)]
    return [Image.fromarray(draw_scene(rng, 320, 240).image) for rng in rngs]


@pytest.fixture
def folder(tmp_path: Path, drawn: list[Image.Image]) -> Path:
    """What the reader of a page has: a picture, and a folder of pictures. A curl that is refused fails, as all else."""
    (tmp_path / "picture.jpg").write_bytes(PICTURE.read_bytes())
    (tmp_path / "pictures").mkdir()
    for index, image in enumerate(drawn):
        image.save(tmp_path / "pictures" / f"scene-{index}.jpg", quality=92)
    (tmp_path / ".curlrc").write_text("fail\nshow-error\n")
    return tmp_path


def run_python(block: pages.Block, text: str, names: dict[str, Any]) -> None:
    """Run in `names`; tracebacks show the page's own lines. Fails with what was printed."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            code = compile("\n" * (block.line - 1) + text, str(block.page), "exec", dont_inherit=True)
            exec(code, names)
    except Exception:
        pytest.fail(f"{block}\n{traceback.format_exc()}\nprinted:\n{printed.getvalue()}", pytrace=False)


def run_shell(block: pages.Block, text: str, folder: Path, server: EmbeddedServer) -> None:
    """Run with the tests' environment; what it leaves running is ended. Fails with what was printed."""
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "FLORENCE2_SAM2_URL": f"grpc://{server.grpc_address}",
        "CURL_HOME": str(folder),
        "no_proxy": "127.0.0.1,localhost",
    }
    output = folder / ".printed"  # a file: what is left running would keep a pipe open
    with output.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        code: int | str = process.wait(SHELL_SECONDS)
    except subprocess.TimeoutExpired:
        code = f"none after {SHELL_SECONDS} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if code != 0:
        printed = output.read_text(encoding="utf-8", errors="replace")
        pytest.fail(f"{block}: exit code {code}\n{text}\nprinted:\n{printed}", pytrace=False)


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.stem)
def test_a_pages_blocks_run(
    page: Path, server: EmbeddedServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in pages.blocks(page):
        if block.language not in RUN or block.not_run is not None:
            continue
        text = block.text
        for name, address in addresses(server).items():
            text = text.replace(name, address)
        if block.language == "python":
            run_python(block, text, names)
        else:
            run_shell(block, text, folder, server)
