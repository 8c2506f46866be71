"""What an export in a process of its own would fail with later is found before torch is even imported."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from florence2_sam2.export import worker


def refusal(arguments: list[str]) -> str:
    """The one line that it ends with."""
    channel = io.StringIO()
    assert worker.main(arguments, channel) == 1
    lines = channel.getvalue().splitlines()
    assert len(lines) == 1
    message: dict[str, str] = json.loads(lines[0])
    return message["error"]


def plan(folder: Path, dtype: type = np.float32, **other: str) -> list[str]:
    """Of two checkpoints with 1 250 000 weights each."""
    for half in ("florence2", "sam2"):
        (folder / half).mkdir()
        weights = {"a": np.zeros((1000, 1000), dtype), "b": np.zeros(250_000, dtype)}
        save_file(weights, folder / half / "model.safetensors")
        (folder / half / "pytorch_model.bin").write_bytes(bytes(7_000_000))  # not read beside the other
    body = {half: str(folder / half) for half in ("florence2", "sam2")}
    return [
        json.dumps(
            {
                "output": str(folder / "repository"),
                "precision": "fp32",
                "decoder_weights": "float",
                **body,
                **other,
            }
        )
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_too_small_a_disk(dtype: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10_000_000))
    error = refusal(plan(tmp_path, dtype))  # the export is in fp32, whatever the checkpoint is in
    assert error.startswith(
        f"the export needs at least 11.0 MB in {tmp_path}, 10.0 MB are free: free some, or choose"
    )
    assert "--cache" in error


def test_the_room_for_weights_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10_000_000))
    arguments = plan(tmp_path)
    (tmp_path / "sam2" / "model.safetensors").write_bytes(bytes(10_000_000))  # 5 + 10, as the files are
    assert "at least 16.5 MB" in refusal(arguments)


def test_a_name_that_is_none(tmp_path: Path) -> None:
    error = refusal(plan(tmp_path, sam2=str(tmp_path / "nowhere")))
    assert "there is no such file or folder" in error
