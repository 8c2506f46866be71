"""A user's machine for the tests of the cache.

The hub is the loopback one. In place of the export itself, which takes torch and a while, a process copies the packaged
repository the way the export puts a finished one in place; tests/e2e/test_released_checkpoints.py has the real one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from hub_server import HubServer

from florence2_sam2.cache import obtain
from florence2_sam2.cache.obtain import Obtained
from florence2_sam2.cache.store import Cache

FLORENCE2, SAM2 = "florence-community/Florence-2-base-ft", "facebook/sam2.1-hiera-tiny"

WORKER = """
import json, os, shutil, sys, tempfile, time
from pathlib import Path
from florence2_sam2.export.repository import staged
from florence2_sam2.server.manifest import packaged_repository
plan = json.loads(sys.argv[1])
control = Path(os.environ["TEST_CONTROL"])
with (control / "exports").open("a") as file:
    file.write(json.dumps(plan) + "\\n")
with staged(Path(plan["output"])) as stage:
    shutil.copytree(packaged_repository(), stage, dirs_exist_ok=True)
    print(json.dumps({"say": "half of it is there"}), flush=True)
    while (control / "wait").exists():
        time.sleep(0.01)
    if (control / "fail").exists():
        print(json.dumps({"error": "the checkpoint cannot be served"}), flush=True)
        sys.exit(1)
    if (control / "die").exists():
        os.abort()
"""


class Machine:
    """A user's machine: the cache, the hub, and what the export does there."""

    def __init__(self, folder: Path, hub: HubServer) -> None:
        self.hub = hub
        self.cache = Cache(folder / "cache")
        self.control = folder / "control"
        self.control.mkdir()

    def obtain(
        self,
        florence2: str = FLORENCE2,
        sam2: str = SAM2,
        precision: str = "fp32",
        decoder_weights: str = "float",
    ) -> tuple[Obtained, list[str]]:
        said: list[str] = []
        obtained = obtain.obtain(florence2, sam2, precision, decoder_weights, self.cache, said.append)
        return obtained, said

    def exports(self) -> list[dict[str, str]]:
        file = self.control / "exports"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def tell(self, what: str) -> None:
        (self.control / what).touch()

    def forget(self, what: str) -> None:
        (self.control / what).unlink()

    def stages(self) -> list[Path]:
        return [path for entry in self.cache.folder.glob("*") for path in entry.glob(".repository-*")]


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
