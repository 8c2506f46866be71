"""What the driver says of the GPU, by nvidia-smi."""

from __future__ import annotations

import subprocess
from typing import Any

FIELDS = {
    "name": "GPU",
    "compute_cap": "compute capability",
    "memory.total": "memory, MiB",
    "driver_version": "driver",
    "power.limit": "power limit, W",
    "clocks.max.sm": "highest clock, MHz",
    "ecc.mode.current": "ECC",
    "mig.mode.current": "MIG",
}


def gpus() -> list[dict[str, str]]:
    """Each GPU with FIELDS; none where there is no driver."""
    said = _ask("--query-gpu=" + ",".join(FIELDS))
    rows = [[cell.strip() for cell in line.split(",")] for line in said.splitlines()]
    return [dict(zip(FIELDS, row, strict=True)) for row in rows if len(row) == len(FIELDS)]


def used_mib() -> float | None:
    """Memory in use on the first GPU, everybody's; None where there is no driver."""
    said = _ask("--query-gpu=memory.used").splitlines()
    try:
        return float(said[0])
    except (IndexError, ValueError):
        return None


def _ask(query: str) -> str:
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        done: Any = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
