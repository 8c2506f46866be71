"""The machine that each test of the cache gets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cache_machine import FLORENCE2, SAM2, WORKER, Machine
from hub_server import running

from florence2_sam2.cache import exporting


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    monkeypatch.setattr(exporting, "WORKER", (str(worker),))
    monkeypatch.setenv("TEST_CONTROL", str(tmp_path / "control"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    for variable in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    with running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        for name in (FLORENCE2, SAM2):
            hub.add(name, {"config.json": b"{}", "model.safetensors": b"first"})
        yield Machine(tmp_path, hub)
