"""What several folders of tests share."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest

# Before torch is first imported: its threads wait for each other actively, and beside a server on the same cores a
# small model then takes ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def small_checkpoints() -> Path:
    """The folder of the small trained checkpoints, `florence2` and `sam2`."""
    return ROOT / "models" / "small"


@pytest.fixture(scope="session")
def reference(small_checkpoints: Path) -> Any:
    """`bench/reference.py`'s pipeline on the small checkpoints. `bench` is no package: it is loaded by its path."""
    name = "reference"
    spec = importlib.util.spec_from_file_location(name, ROOT / "bench" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Reference(small_checkpoints / "florence2", small_checkpoints / "sam2")
