"""The road of every real user: name two checkpoints of the hub, wait once, segment; offline from then on.

The hub is on loopback. The default form serves the small checkpoints under the released names; the long form
full-size ones, from the folder that FLORENCE2_SAM2_FULLSIZE names (`scripts/fullsize` makes one).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from calls import alive, descendants, infer, picture, png, until
from drawn import SCENE
from hub_server import HubServer, running

pytestmark = [pytest.mark.server, pytest.mark.parity, pytest.mark.timeout(600)]

FLORENCE2, SAM2 = "florence-community/Florence-2-base-ft", "facebook/sam2.1-hiera-tiny"
# As where only the `server` extra is installed, and with a hub library that must not be needed.
BLOCK = """
import sys
for name in ("torch", "transformers", "onnx", "huggingface_hub"):
    sys.modules[name] = None
"""


class User:
    """One user's machine: its caches, and `serve` with the released names."""

    def __init__(self, folder: Path, hub: HubServer) -> None:
        self.folder = folder
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("HF_", "FLORENCE2"))
        }
        self.environment |= {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(folder / "huggingface"),
            "FLORENCE2_SAM2_CACHE": str(folder / "cache"),
            # A proxy that does not exist: this machine must be reached without.
            "http_proxy": "http://127.0.0.1:9",
            "no_proxy": "",
        }
        self.starts: list[Serving] = []

    def serve(self, *arguments: str, **environment: str) -> Serving:
        folder = self.folder / f"start{len(self.starts)}"
        folder.mkdir()
        checkpoints = arguments or (f"--florence2={FLORENCE2}", f"--sam2={SAM2}")
        self.starts.append(Serving(folder, checkpoints, self.environment | environment))
        return self.starts[-1]

    def leave(self) -> None:
        """End whatever a failed test has left running."""
        for start in self.starts:
            start.process.kill()
            start.process.wait()

    def without_extras(self) -> dict[str, str]:
        """The environment of someone who has the `server` extra only."""
        folder = self.folder / "blocked"
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(BLOCK)
        return {
            "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
        }

    def entries(self) -> list[Path]:
        return [path.parent for path in (self.folder / "cache").glob("*/repository")]


class Serving:
    """A running `florence2-sam2 serve`."""

    def __init__(self, folder: Path, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
        self.ready_file = folder / "ready.json"
        self.output = folder / "output"
        ports = [word for name in ("grpc", "http", "metrics") for word in (f"--{name}-port", "0")]
        command = [
            sys.executable,
            "-m",
            "florence2_sam2",
            "serve",
            *ports,
            "--ready-file",
            str(self.ready_file),
        ]
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                [*command, *arguments], stderr=file, env=environment, start_new_session=True
            )

    def text(self) -> str:
        return self.output.read_text()

    def says(self, text: str, seconds: float = 300) -> None:
        assert until(lambda: text in self.text() or self.process.poll() is not None, seconds), self.text()
        assert text in self.text(), self.text()

    def segment(self, image: bytes) -> dict[str, Any]:
        self.says("ready after")
        address = json.loads(self.ready_file.read_text())["grpc"]
        result: dict[str, Any] = json.loads(
            infer(address, "segment", {"image": image}, ["result"])["result"][0]
        )
        return result

    def refusal(self) -> str:
        """The one line that it ends with."""
        assert self.process.wait(200) == 1, self.text()
        errors = [line for line in self.text().splitlines() if line.startswith("florence2-sam2: error: ")]
        assert len(errors) == 1, self.text()
        assert "Traceback" not in self.text()
        return errors[0].removeprefix("florence2-sam2: error: ")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(60) == 0, self.text()


@pytest.fixture
def hub(small_checkpoints: Path) -> Iterator[HubServer]:
    with running() as server:
        server.add_folder(FLORENCE2, small_checkpoints / "florence2", **{"pytorch_model.bin": b"pickled"})
        server.add_folder(SAM2, small_checkpoints / "sam2", **{"sam2.1_hiera_tiny.pt": b"pickled"})
        yield server


@pytest.fixture
def user(tmp_path: Path, hub: HubServer) -> Iterator[User]:
    one = User(tmp_path, hub)
    yield one
    one.leave()


@pytest.mark.long
def test_two_first_starts_export_once_and_later_ones_need_nothing(
    user: User, hub: HubServer, small_checkpoints: Path
) -> None:
    hub.break_after["model.safetensors"] = 2_000_000
    first = user.serve()
    first.says("exporting")
    second = user.serve()
    answers = [start.segment(SCENE) for start in (first, second)]
    assert answers[0]["objects"]
    assert answers[0]["objects"] == answers[1]["objects"]
    commits = [hub.repositories[name].revisions["main"] for name in (FLORENCE2, SAM2)]
    assert [answers[0]["models"][model]["checkpoint"] for model in ("florence2", "sam2")] == [FLORENCE2, SAM2]
    assert "another process exports" in second.text()
    assert "written in" not in second.text()
    assert all(line.startswith("florence2-sam2: ") for line in first.text().splitlines()), first.text()
    assert len(user.entries()) == 1
    manifest = json.loads((user.entries()[0] / "repository" / "sam2" / "1" / "manifest.json").read_text())
    assert manifest["source"]["revision"] == commits[1]

    weights = sum(
        (small_checkpoints / half / "model.safetensors").stat().st_size for half in ("florence2", "sam2")
    )
    assert hub.sent("model.safetensors") == weights, "a byte of the weights was sent twice"
    assert hub.ranges_of("model.safetensors")
    assert hub.sent("pytorch_model.bin") == hub.sent("sam2.1_hiera_tiny.pt") == 0

    for start in (first, second):
        start.stop()
    hub.stop()
    offline = user.serve(HF_HUB_OFFLINE="1", **user.without_extras())
    assert offline.segment(SCENE)["objects"] == answers[0]["objects"]
    assert f"HF_HUB_OFFLINE is set: serving {SAM2}@{commits[1][:12]}" in offline.text()
    offline.stop()
    assert len(user.entries()) == 1


def test_without_what_the_first_start_needs_one_line_says_what_to_do(user: User, hub: HubServer) -> None:
    assert "pip install 'florence2-sam2[export]'" in user.serve(**user.without_extras()).refusal()
    assert "HF_HUB_OFFLINE is set, and " in user.serve(HF_HUB_OFFLINE="1").refusal()
    hub.flipped.add("model.safetensors")
    assert "model.safetensors of florence-community/Florence-2-base-ft" in (line := user.serve().refusal())
    assert "arrived damaged" in line
    hub.flipped.clear()
    assert "has no revision 'v9'" in user.serve(f"--florence2={FLORENCE2}@v9", f"--sam2={SAM2}").refusal()
    assert "--sam2 is given without --florence2" in user.serve(f"--sam2={SAM2}").refusal()
    assert "exclude each other" in user.serve("--repository=x", f"--sam2={SAM2}").refusal()
    assert not user.entries()


def test_the_hub_library_finds_what_was_downloaded_here_and_the_other_way(user: User, hub: HubServer) -> None:
    from huggingface_hub import snapshot_download

    from florence2_sam2.hub.client import Hub
    from florence2_sam2.hub.download import fetch
    from florence2_sam2.hub.names import HubName
    from florence2_sam2.hub.store import Store

    ours, theirs = user.folder / "ours", user.folder / "theirs"
    folder, commit = fetch(HubName(SAM2), print, Hub(hub.endpoint), Store(ours, SAM2))
    Store(ours, SAM2).remember("main", commit)
    assert Path(snapshot_download(SAM2, cache_dir=ours, local_files_only=True)) == folder.resolve()
    snapshot_download(SAM2, cache_dir=theirs, endpoint=hub.endpoint)
    sent = hub.sent("model.safetensors")
    again, _ = fetch(HubName(SAM2), print, Hub(hub.endpoint), Store(theirs, SAM2))
    assert hub.sent("model.safetensors") == sent, "what the library had downloaded was fetched again"
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.mark.long
def test_an_interrupted_export_ends_cleanly_and_the_next_start_goes_on(user: User) -> None:
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        start = user.serve()
        start.says("model.onnx: ")
        below = descendants(start.process.pid)
        assert [line for line in below.values() if "export.worker" in line]
        start.process.send_signal(number)
        assert start.process.wait(10) == code
        assert until(lambda below=below: not any(map(alive, below)), 10), (
            "the export goes on without its server"
        )
        assert not user.entries()
    start = user.serve()
    assert start.segment(SCENE)["objects"]
    assert "downloaded in" not in start.text()
    assert not list((user.folder / "cache").glob("*/.repository-*"))
    start.stop()


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.skipif(
    "FLORENCE2_SAM2_FULLSIZE" not in os.environ, reason="FLORENCE2_SAM2_FULLSIZE names no folder"
)
def test_full_size(tmp_path: Path) -> None:
    folder = Path(os.environ["FLORENCE2_SAM2_FULLSIZE"])
    with running() as hub:
        hub.add_folder(FLORENCE2, folder / "florence2-base")
        hub.add_folder(SAM2, folder / "sam2.1-hiera-tiny")
        hub.break_after["model.safetensors"] = 100_000_000
        user = User(tmp_path, hub)
        try:
            start = user.serve()
            start.says("ready after", 3000)
            assert start.segment(png(picture(640, 480)))["image"] == {"width": 640, "height": 480}
            start.stop()
            again = user.serve()
            again.says("ready after", 300)
            assert "exported before" in again.text()
            again.stop()
        finally:
            user.leave()
