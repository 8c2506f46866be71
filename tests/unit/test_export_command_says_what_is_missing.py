"""`florence2-sam2 export` without its packages, or with the wrong arguments: one line, and a failing exit code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from florence2_sam2.cli import main


def test_missing_packages_name_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    assert main(["export", "--sam2", "somewhere", "--output", str(tmp_path / "new")]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "torch" in said
    assert "florence2-sam2[export]" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--sam2", "x"],
        ["--output", "x", "--precision", "int8"],
        ["--output", "x", "--decoder-weights", "int4"],
        ["--output", "x", "--opset", "9"],
    ],
)
def test_wrong_usage_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["export", *arguments])
    assert exit_.value.code == 2
    assert "usage" in capsys.readouterr().err
