"""What an export in a process of its own would fail with later is found before torch is even imported."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from florence2_sam2.export import worker


def refusal(arguments: list[str]) -> str:
    """The one line that it ends with."""
    channel = io.StringIO()
    assert worker.main(arguments, channel) == 1
    lines = channel.getvalue().splitlines()
    assert len(lines) == 1
    message: dict[str, str] = json.loads(lines[0])
    return message["error"]


def plan(folder: Path, **other: str) -> list[str]:
    for half in ("florence2", "sam2"):
        (folder / half).mkdir()
        (folder / half / "model.safetensors").write_bytes(bytes(5_000_000))
    body = {half: str(folder / half) for half in ("florence2", "sam2")}
    return [json.dumps({"output": str(folder / "repository"), "precision": "fp32", **body, **other})]


def test_too_small_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10_000_000))
    error = refusal(plan(tmp_path))
    assert error.startswith(
        f"the export needs at least 11.0 MB in {tmp_path}, 10.0 MB are free: free some, or choose"
    )
    assert "--cache" in error


def test_a_name_that_is_none(tmp_path: Path) -> None:
    error = refusal(plan(tmp_path, sam2=str(tmp_path / "nowhere")))
    assert "there is no such file or folder" in error
