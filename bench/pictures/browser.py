"""Screenshots of the playground and of a report, in a Chromium that is there."""

from __future__ import annotations

import io
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from bench.pictures.drawings import picture
from florence2_sam2.cli.main import main as command
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.training.demo import demo_scene

# Chromium as a user without rights on the machine, and in a container, needs the first two; the rest keeps it from
# asking its maker's servers.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
BROWSERS = ("chromium", "google-chrome", "google-chrome-stable")
REPORTED = (9, 22, 27, 41)  # the scenes of the report


def browser_path() -> str | None:
    """An installed Chromium; None: playwright's own, if that is installed."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


@contextmanager
def tab(width: int, height: int) -> Iterator[Any]:
    """A page of a browser, playwright's."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=browser_path(), args=FLAGS)
        try:
            yield browser.new_page(viewport={"width": width, "height": height})
        finally:
            browser.close()


def _shot(page: Any, whole: bool = False) -> Image.Image:
    """What is in the window, or the whole page."""
    return Image.open(io.BytesIO(page.screenshot(full_page=whole))).convert("RGB")


def playground(server: EmbeddedServer) -> Image.Image:
    """The playground with the demo's picture in it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["--port", str(port), "--url", f"grpc://{server.grpc_address}"]
    with tempfile.TemporaryDirectory() as folder, tab(1400, 1160) as page:
        dropped = Path(folder) / "picture.png"
        Image.fromarray(demo_scene().image).save(dropped)
        process = subprocess.Popen(
            [sys.executable, "-m", "florence2_sam2", "playground", *arguments], stdout=subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            process.stdout.readline()
            page.goto(f"http://127.0.0.1:{port}")
            page.wait_for_selector("#status >> text=Drop a picture")
            page.set_input_files("#picture input[type=file]", str(dropped))
            page.wait_for_selector("#status >> text=left out")
            page.wait_for_timeout(1000)  # the picture that is shown is loaded
            return _shot(page)
        finally:
            process.terminate()
            process.wait(10)


def report(server: EmbeddedServer) -> Image.Image:
    """The report of a few scenes, one of them broken."""
    with tempfile.TemporaryDirectory() as folder, tab(830, 600) as page:
        pictures = Path(folder) / "shelf"
        pictures.mkdir()
        for number in REPORTED:
            picture(number).save(pictures / f"{number}.png")
        (pictures / "broken.png").write_bytes(b"no picture")
        file = Path(folder) / "look.html"
        arguments = [str(pictures), "--report", str(file), "--results", str(Path(folder) / "all.jsonl")]
        command(["segment", *arguments, "--url", f"grpc://{server.grpc_address}"])
        text = file.read_text(encoding="utf-8").replace(f"{folder}/", "")
        file.write_text(text, encoding="utf-8")
        page.goto(file.as_uri())
        return _shot(page, whole=True)
