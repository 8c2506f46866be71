"""A program `tritonserver` as NVIDIA's container has it on PATH: the wheel's Triton (24.10) with its backends."""

from __future__ import annotations

import shlex
from pathlib import Path

from florence2_sam2.server.launch.checks import find_libpython
from florence2_sam2.server.launch.wheel import assemble_backends, find_wheel

# Where the container's Triton has them, the wheel's must be told.
PROGRAM = """#!/bin/sh
LD_LIBRARY_PATH={libraries} exec {binary} "$@" --backend-directory={backends} --cache-directory={caches}
"""
RECORDER = """#!{python}
import json, os, sys
with open({record!r}, "w") as file:
    json.dump({{"arguments": sys.argv[1:], "environment": dict(os.environ)}}, file)
sys.exit(7)
"""


def real(folder: Path, seen: Path | None = None) -> Path:
    """Write it into `folder`, and answer with the folder for PATH. `seen`: where `folder` will be when it runs."""
    wheel = find_wheel()
    libraries = ":".join(str(path) for path in (wheel.libraries, find_libpython()) if path)
    text = PROGRAM.format(
        libraries=shlex.quote(libraries),
        binary=shlex.quote(str(wheel.binary)),
        backends=shlex.quote(str((seen or folder) / assemble_backends(wheel, folder).relative_to(folder))),
        caches=shlex.quote(str(wheel.caches)),
    )
    return (seen or folder) / _program(folder, text).relative_to(folder)


def recording(folder: Path, python: str) -> Path:
    """One that starts nothing: it writes what it was called with to `record.json` in `folder`, and ends with 7."""
    return _program(folder, RECORDER.format(python=python, record=str(folder / "record.json")))


def _program(folder: Path, text: str) -> Path:
    bin_folder = folder / "bin"
    bin_folder.mkdir(parents=True)
    program = bin_folder / "tritonserver"
    program.write_text(text, encoding="utf-8")
    program.chmod(0o755)
    return bin_folder
