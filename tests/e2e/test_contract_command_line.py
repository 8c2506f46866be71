"""`florence2-sam2 segment` against a real server."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from drawn import SCENE, segment
from PIL import Image

from florence2_sam2.server.launch.embedded import EmbeddedServer

pytestmark = pytest.mark.server


def run(server: EmbeddedServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "florence2_sam2",
        "segment",
        *arguments,
        "--url",
        f"grpc://{server.grpc_address}",
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_json_overlay_and_mask(server: EmbeddedServer, tmp_path: Path) -> None:
    picture = tmp_path / "scene.png"
    picture.write_bytes(SCENE)
    done = run(
        server, str(picture), "--area-threshold", "1", "--overlay", str(tmp_path / "{name}-objects.png")
    )
    assert (done.returncode, done.stderr) == (0, "")
    expected = (
        {"picture": str(picture)}
        | segment(server, area_threshold=1).to_dict()
        | {"timings_ms": 0, "request_id": 0}
    )
    assert json.loads(done.stdout) | {"timings_ms": 0, "request_id": 0} == expected
    assert Image.open(tmp_path / "scene-objects.png").size == (200, 100)
    done = run(server, str(picture), "--area-threshold", "1", "--mask", str(tmp_path / "mask.png"))
    assert (done.returncode, done.stderr) == (0, "")
    mask = np.asarray(Image.open(tmp_path / "mask.png")) > 0
    assert np.array_equal(mask, segment(server, area_threshold=1, polygon_precision=0).mask())


def test_on_a_terminal_a_line_tells_what_goes_on_and_goes_away(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    picture = tmp_path / "scene.png"
    picture.write_bytes(SCENE)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "florence2_sam2", "segment", str(picture), "--area-threshold", "1"]
    command += ["--url", f"grpc://{server.grpc_address}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, stdin=theirs)
    answer, _ = process.communicate(timeout=60)
    os.close(theirs)
    shown = os.read(ours, 1_000_000).decode()
    os.close(ours)
    assert json.loads(answer)["objects"]
    lines = shown.split("\r\033[K")
    assert lines[0] == lines[-1] == ""
    assert "200×100: looking" in lines
    assert any(line.startswith(("grounding: ", "…")) for line in lines)
    assert any(line.startswith("masks: ") for line in lines)
    assert all(len(line) < 80 and "\n" not in line for line in lines)


def test_refusals_name_the_flag(server: EmbeddedServer, tmp_path: Path) -> None:
    picture = tmp_path / "scene.png"
    picture.write_bytes(SCENE)
    done = run(server, str(picture), "--nms-threshold", "1.5")
    assert done.returncode == 1
    assert "--nms-threshold: a number from 0 to 1 is needed, got 1.5" in done.stderr
    picture.write_bytes(b"no picture")
    done = run(server, str(picture))
    assert done.returncode == 1
    assert done.stderr.startswith(f"florence2-sam2 segment: {picture}: image: ")
