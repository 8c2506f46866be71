"""The playground's page in a real Chromium: pictures, captions, thresholds, masks, mistakes."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from calls import until

from bench.pictures.browser import FLAGS, browser_path
from florence2_sam2.client import Segmentation, Segmenter
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.training.demo import demo_scene

pytestmark = pytest.mark.server

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "pictures" / "demo.jpg"


@pytest.fixture(scope="module")
def address(server: EmbeddedServer) -> Iterator[str]:
    """The page, of the command that users type."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "florence2_sam2", "playground", str(PICTURE), "--port", str(port)]
    command += ["--url", f"grpc://{server.grpc_address}", "--http-url", f"http://{server.http_address}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert f"The page is at http://127.0.0.1:{port}" in line, line + process.stdout.read()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        try:
            opened = started.chromium.launch(executable_path=browser_path(), args=FLAGS)
        except playwright.Error as error:
            if os.environ.get("FLORENCE2_SAM2_NEEDS_BROWSER"):
                raise
            pytest.skip(f"no Chromium is installed: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


class Page:
    """The page as somebody uses it."""

    def __init__(self, tab: Any, address: str) -> None:
        self.tab = tab
        self.elsewhere: list[str] = []
        tab.on("request", lambda request: self.elsewhere.append(request.url))
        tab.goto(address)
        tab.wait_for_selector("#status >> text=Drop a picture")

    @property
    def status(self) -> str:
        return str(self.tab.inner_text("#status"))

    def wait(self, pattern: str) -> str:
        """The status, as soon as it looks like that."""
        assert until(lambda: re.search(pattern, self.status) is not None, 20), self.status
        return self.status

    def drop(self, picture: Path) -> None:
        self.tab.set_input_files("#picture input[type=file]", str(picture))

    def set(self, slider: str, value: float) -> None:
        box = self.tab.locator(f"#{slider} input[type=number]")
        box.fill(str(value))
        box.press("Tab")

    def shown(self) -> Segmentation:
        """What the JSON says."""
        self.tab.get_by_role("tab", name="JSON").click()
        text = self.code("json")
        self.tab.get_by_role("tab", name="objects").click()
        return Segmentation.from_json(json.loads(text))

    def code(self, which: str) -> str:
        """All of a text, as the copy button of its corner gives it."""
        self.tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.tab.locator(f"#{which} button[aria-label=Copy]").click()
        return str(self.tab.evaluate("navigator.clipboard.readText()"))

    def picture(self) -> str:
        """Where the picture that is shown comes from."""
        return str(self.tab.locator("#result img").first.get_attribute("src"))


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Page]:
    tab = browser.new_page(viewport={"width": 1400, "height": 1000})
    yield Page(tab, address)
    tab.close()


def test_a_picture_is_segmented_and_the_page_shows_it(page: Page, server: EmbeddedServer) -> None:
    page.drop(PICTURE)
    page.wait(r"7 objects, 1 left out, \d+ ms")
    with Segmenter(server.grpc_address) as client:
        wanted = client.segment(PICTURE, formats=())
    assert page.shown().objects == wanted.objects
    assert page.shown().filtered == wanted.filtered
    assert page.tab.input_value("#written textarea") == wanted.caption
    rows = page.tab.inner_text("#objects")
    assert all(item.label in rows for item in wanted.objects)
    assert "raise --area-threshold" in page.tab.inner_text("#filtered")
    with urllib.request.urlopen(page.picture()) as answer:
        assert answer.read(8) == b"\x89PNG\r\n\x1a\n"
    here = page.tab.evaluate("location.origin")
    assert [url for url in page.elsewhere if not url.startswith((here, "data:", "blob:"))] == []


def test_a_threshold_changes_the_answer_from_what_is_remembered(page: Page) -> None:
    page.drop(PICTURE)
    page.wait("7 objects")
    page.set("area_threshold", 1)
    page.wait("8 objects, 0 left out")
    assert page.shown().timings_ms["caption"] < 5
    page.set("confidence_threshold", 0.93)
    assert page.wait("[1-5] objects, [3-7] left out")
    kept = page.shown()
    assert all(item.score is not None and item.score >= 0.93 for item in kept.objects)
    assert "lower --confidence-threshold" in page.tab.inner_text("#filtered")
    assert "area_threshold=1" in python(page)


def python(page: Page) -> str:
    page.tab.get_by_role("tab", name="Python").click()
    return page.code("python")


def test_a_caption_of_ones_own(page: Page) -> None:
    phrase = demo_scene().objects[0].phrase
    page.drop(PICTURE)
    page.wait("7 objects")
    box = page.tab.locator("#caption textarea")
    box.fill(phrase)
    box.press("Enter")
    page.wait("^[12] object")
    assert {item.label for item in page.shown().objects} == {phrase}
    assert page.shown().caption_source == "caller"


def test_one_mask_and_its_calls(page: Page, server: EmbeddedServer, tmp_path: Path) -> None:
    page.drop(PICTURE)
    page.wait("7 objects")
    before = page.picture()
    page.tab.get_by_label("inverted mask").check()
    assert until(lambda: page.picture() != before, 10)
    with Segmenter(server.grpc_address) as client:
        wanted = client.segment(PICTURE, output_mask=True, invert_mask=True)
    shutil.copy(PICTURE, tmp_path)
    (tmp_path / "call.py").write_text(python(page), encoding="utf-8")
    subprocess.run([sys.executable, "call.py"], cwd=tmp_path, check=True)
    assert (tmp_path / "mask.png").read_bytes() == wanted.mask_png
    page.tab.get_by_role("tab", name="curl").click()
    told = subprocess.run(
        ["bash", "-c", page.code("curl")], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    answer = Segmentation.from_json(json.loads(json.loads(told.stdout)["result"]))
    assert answer.mask_png == wanted.mask_png


def test_a_broken_file_is_told_and_the_page_goes_on(page: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(PICTURE.read_bytes()[:2000])
    page.drop(broken)
    page.wait("⚠ image: ")
    page.tab.reload()
    page.wait("Drop a picture")
    page.drop(PICTURE)
    page.wait("7 objects")


def test_it_says_what_is_missing(server: EmbeddedServer) -> None:
    def said(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "florence2_sam2", "playground", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stderr

    assert said("no-such.jpg") == (2, "florence2-sam2 playground: there is no file no-such.jpg\n")
    assert said("--url", "http://x")[0] == 2
    taken = server.http_address.rpartition(":")[2]
    code, message = said("--url", server.grpc_address, "--port", taken)
    assert (code, message.count("\n")) == (1, 1)
    assert f"cannot listen on 127.0.0.1:{taken}" in message
