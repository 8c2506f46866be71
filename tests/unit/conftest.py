"""What several of the tests of `florence2-sam2 segment` share."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from kserve_peer import Peer
from many_pictures import NAMES, Run
from PIL import Image

from florence2_sam2.cli import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures, and what is none."""
    root = tmp_path / "pictures"
    for name in (*NAMES, ".hidden.png", "deep/.cache/e.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 8), "grey").save(root / name)
    (root / "notes.txt").write_text("no picture")
    return root


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(peer: Peer, *arguments: object, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        try:
            code = main(["segment", *map(str, arguments), "--url", peer.address])
        except SystemExit as left:
            code = int(left.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call
