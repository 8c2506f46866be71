"""The pieces of Triton inside the nvidia-pytriton wheel, and a private folder that puts them together.

The wheel's own launcher is not used: it serves python functions of the calling process, not a model
repository.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from florence2_sam2.server.launch.errors import StartError

TRITON_VERSION = "2.51.0"  # of nvidia-pytriton 0.7.0, the container release 24.10
STUB = "triton_python_backend_stub"


@dataclass(frozen=True)
class TritonWheel:
    """Where the wheel keeps Triton."""

    binary: Path
    libraries: Path
    backend: Path
    stub: Path
    caches: Path


def find_wheel(package: str = "pytriton", python: tuple[int, int] = sys.version_info[:2]) -> TritonWheel:
    """Look for the installed wheel; it is not imported.

    Raises:
        StartError: it is not installed, or has no stub for this Python.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.origin:
        raise StartError(
            "the embedded Triton (nvidia-pytriton) is not installed: pip install 'florence2-sam2[server]'"
        )
    folder = Path(spec.origin).parent
    triton = folder / "tritonserver"
    wheel = TritonWheel(
        binary=triton / "bin" / "tritonserver",
        libraries=folder.parent / "nvidia_pytriton.libs",
        backend=triton / "backends" / "python",
        stub=triton / "python_backend_stubs" / f"{python[0]}.{python[1]}" / STUB,
        caches=triton / "caches",
    )
    for path in (wheel.binary, wheel.libraries, wheel.backend, wheel.stub):
        if not path.exists():
            raise StartError(
                f"nvidia-pytriton is incomplete ({path.name} is missing): reinstall nvidia-pytriton==0.7.0"
            )
    return wheel


def assemble_backends(wheel: TritonWheel, folder: Path) -> Path:
    """Make the folder that Triton takes backends from: the wheel keeps the stubs elsewhere, one for each
    Python.

    Returns:
        The path for `--backend-directory`, inside `folder`.
    """
    python = folder / "backends" / "python"
    python.mkdir(parents=True)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        (python / name).symlink_to(wheel.backend / name)
    (python / STUB).symlink_to(wheel.stub)
    return python.parent
