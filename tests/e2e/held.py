"""A repository of which single models can be made to hang, as by a deadlock: their processes live, and do nothing."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from florence2_sam2.server.manifest import packaged_repository

# A model that works off its requests one by one stops before the next one; one with an event loop stops that, when it
# looks at its numbers, which is every second.
HOLD = """

import pathlib
import time

_Free = TritonPythonModel


def hold():
    while pathlib.Path(__file__).with_name("held").exists():
        time.sleep(0.05)


class TritonPythonModel(_Free):
    if hasattr(_Free, "measure"):

        def measure(self):
            hold()
            super().measure()

    else:

        def execute(self, requests):
            hold()
            return super().execute(requests)
"""


def repository_to_hold(folder: Path, *models: str) -> Path:
    """A copy of the packaged repository in `folder`, in which `models` can be held."""
    copy = folder / "repository"
    shutil.copytree(packaged_repository(), copy)
    for model in models:
        with (copy / model / "1" / "model.py").open("a", encoding="utf-8") as file:
            file.write(HOLD)
    return copy


@contextlib.contextmanager
def held(repository: Path, model: str) -> Iterator[None]:
    """Within, the model hangs, a second after the beginning at the latest."""
    flag = repository / model / "1" / "held"
    flag.touch()
    try:
        yield
    finally:
        flag.unlink(missing_ok=True)
