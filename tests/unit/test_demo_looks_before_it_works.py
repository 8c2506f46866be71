"""What `scripts/demo` can know to be wrong is said before anything is set up."""

from __future__ import annotations

import subprocess
from pathlib import Path

from florence2_sam2.cli.main import parse

ROOT = Path(__file__).resolve().parents[2]


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Started in `folder`; where it set anything up it would need longer than it gets."""
    environment = {"PATH": "/usr/bin:/bin", "FLORENCE2_SAM2_VENV": str(folder / "venv")}
    return subprocess.run(
        [ROOT / "scripts" / "demo", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )


def test_a_picture_that_is_not_there(tmp_path: Path) -> None:
    for arguments in (["holiday.png"], ["--released", "holiday.png", "--mask"]):
        done = demo(tmp_path, *arguments)
        assert done.returncode == 2
        assert f"There is no picture {tmp_path}/holiday.png" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_help(tmp_path: Path) -> None:
    for arguments in (["--help"], ["-h"], ["--released", "--help"], ["holiday.png", "--help"]):
        done = demo(tmp_path, *arguments)
        assert done.returncode == 0
        assert done.stdout.splitlines()[1].startswith("Usage: scripts/demo [--released] [PICTURE]")


def test_arguments_are_known_without_running_anything() -> None:
    """The demo asks so whether the options for `segment` are right."""
    parsed = parse(["segment", "a.png", "--num-beams", "3"])
    assert (parsed.pictures, parsed.num_beams) == (["a.png"], 3)
