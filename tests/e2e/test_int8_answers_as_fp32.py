"""`serve --decoder-weights int8` exports, serves, and finds on the demo's picture what fp32 finds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from calls import until
from drawn import segment

from florence2_sam2.client import Segmenter
from florence2_sam2.server import manifest
from florence2_sam2.server.launch.embedded import EmbeddedServer

pytestmark = [pytest.mark.server, pytest.mark.parity, pytest.mark.long]

PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "demo.jpg"


@pytest.fixture
def address(small_checkpoints: Path, tmp_path: Path) -> Iterator[str]:
    """The gRPC address of a server of its own."""
    ready, output = tmp_path / "ready.json", tmp_path / "output"
    options = {
        "florence2": small_checkpoints / "florence2",
        "sam2": small_checkpoints / "sam2",
        "decoder-weights": "int8",
        "cache": tmp_path / "cache",
        "ready-file": ready,
        **{f"{name}-port": 0 for name in ("grpc", "http", "metrics")},
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with output.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "florence2_sam2", "serve", *words], stderr=file)
    try:
        assert until(lambda: ready.is_file() or process.poll() is not None, 240), output.read_text()
        assert ready.is_file(), output.read_text()
        yield json.loads(ready.read_text())["grpc"]
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_the_same_labels(server: EmbeddedServer, address: str, tmp_path: Path) -> None:
    picture = PICTURE.read_bytes()
    wide = segment(server, picture)
    with Segmenter(address, timeout=60) as segmenter:
        narrow = segmenter.segment(picture)
    assert narrow.models["florence2"] == wide.models["florence2"] | {"decoder_weights": "int8"}
    assert narrow.caption == wide.caption
    assert wide.objects
    assert [item.label for item in narrow.objects] == [item.label for item in wide.objects]
    for one, other in zip(wide.objects, narrow.objects, strict=True):
        np.testing.assert_allclose(other.box, one.box, atol=0.01 * max(wide.width, wide.height))
    (entry,) = (tmp_path / "cache").glob("*-fp32-int8-decoder-*")
    assert manifest.read_florence2(entry / "repository").decoder_weights == "int8"
