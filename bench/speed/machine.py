"""What the figures were taken on, recorded by itself."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from bench.fullsize.serving import descendants
from florence2_sam2.server.launch.wheel import TRITON_VERSION

ROOT = Path(__file__).parents[2]
PACKAGES = ("onnxruntime", "torch", "transformers", "numpy", "pillow", "tritonclient")
NOT_INSTALLED = "not installed"
VECTORS = ("avx2", "avx512f", "avx512_vnni", "amx_tile", "asimd")


def describe() -> dict[str, Any]:
    """Processor, cores, memory, system, versions, the commit, and settings in the environment that change speed."""
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return {
        "cpu": _field(cpu, "model name") or platform.machine(),
        "vectors": [name for name in VECTORS if name in _field(cpu, "flags").split()],
        "cores": cores(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "last_cache_mb": last_cache_bytes() / 2**20,
        "system": _system(),
        "python": platform.python_version(),
        "tritonserver": TRITON_VERSION,
        **{name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(("FLORENCE2_SAM2_", "OMP_", "MKL_", "OPENBLAS_"))
        },
    }


def sentence(machine: dict[str, Any]) -> str:
    """The same for people."""
    vectors = ", ".join(machine["vectors"])
    named = [name for name in ("onnxruntime", "torch", "transformers") if machine[name] != NOT_INSTALLED]
    versions = ", ".join(f"{name} {machine[name]}" for name in named)
    return (
        f"{machine['cores']} cores of {machine['cpu']} ({vectors}), {machine['memory_gb']:.0f} GB, {machine['system']},"
        f" Python {machine['python']}, {versions}, tritonserver {machine['tritonserver']}, commit {machine['commit']}"
    )


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def last_cache_bytes() -> int:
    """Size of the largest cache that the kernel knows of; 0 where it tells nothing."""
    sizes = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        factor = {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1:], 1)
        sizes.append(int(text.rstrip("KMG")) * factor)
    return max(sizes)


class Watch:
    """How busy the machine was with other things while something was measured: a figure taken beside other work is
    none."""

    def __init__(self) -> None:
        self._before = self._now()

    def others(self) -> dict[str, float]:
        """Since the beginning: the cores that were busy with processes that are not ours, and stolen by the host."""
        busy, stolen, ours, clock = (
            after - before for after, before in zip(self._now(), self._before, strict=True)
        )
        clock = max(clock, 1e-9)
        return {"busy_cores": round(max(busy - ours, 0) / clock, 3), "stolen_cores": round(stolen / clock, 3)}

    @staticmethod
    def _now() -> tuple[float, float, float, float]:
        """Processor seconds of everyone, stolen ones, ours with those of children that have ended, and the clock."""
        ticks = os.sysconf("SC_CLK_TCK")
        numbers = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        user, nice, system, _, _, irq, softirq, steal = numbers[:8]
        ours = sum(_spent(pid) for pid in (os.getpid(), *descendants(os.getpid())))
        return (user + nice + system + irq + softirq) / ticks, steal / ticks, ours / ticks, time.monotonic()


def _spent(pid: int) -> int:
    """Clock ticks of a process and of its children that have ended; 0 when it has ended itself."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(map(int, stat.rpartition(")")[2].split()[11:15]))


def _field(text: str, name: str) -> str:
    for line in text.splitlines():
        if line.split(":")[0].strip() == name:
            return line.partition(":")[2].strip()
    return ""


def _system() -> str:
    for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return platform.system()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return NOT_INSTALLED


def _commit() -> str:
    """The commit of this checkout, with a plus when something in it has changed since."""
    git = ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        # The results themselves are written into the checkout.
        changed = subprocess.run(
            [
                *git,
                "status",
                "--porcelain",
                "--untracked-files=no",
                "--",
                ".",
                ":!bench/RESULTS.md",
                ":!docs/pictures",
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changed else "")
