"""What models run on: the wanted execution providers, the cores there are, and how many of them a session takes.

Nothing here needs onnxruntime.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from florence2_sam2.server.manifest import external_data

CPU = "CPUExecutionProvider"

THREADS_VARIABLE = "FLORENCE2_SAM2_THREADS"
PROVIDERS_VARIABLE = "FLORENCE2_SAM2_PROVIDERS"
# "quota period" in microseconds, or "max period": what Kubernetes makes of a limit on CPUs.
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


# A graph this small runs for a millisecond or so per call, and waking a second thread costs more than it saves: with
# one thread each, the demo models answered 8 callers 1.4 times as fast on 2 cores.
SMALL_BYTES = 8 * 2**20
MAX_SMALL_THREADS = 4  # its nodes are too small for more


def threads(path: Path) -> int:
    """Threads of a model file's session: the environment's, else one for a small model and every core for others."""
    chosen = int(os.environ.get(THREADS_VARIABLE, 0))
    if chosen:
        return chosen
    return 1 if is_small(path) else cores()


def threads_alone(path: Path) -> int:
    """Threads of a second session of a small model, for a request that has the machine to itself; 0: it has none, since
    its one session has every core or what the environment says."""
    several = min(cores(), MAX_SMALL_THREADS)
    if THREADS_VARIABLE in os.environ or wanted_providers()[0] != CPU or not is_small(path):
        return 0
    return several if several > threads(path) else 0


def cores(quota: Path = CPU_QUOTA) -> int:
    """Cores that this process may use: those it may run on, and no more than the share that its container has."""
    allowed = len(os.sched_getaffinity(0))
    try:
        share, period = quota.read_text().split()
        return allowed if share == "max" else max(1, min(allowed, math.ceil(int(share) / int(period))))
    except (OSError, ValueError):  # no container, or none with cgroups of version 2
        return allowed


def is_small(path: Path) -> bool:
    """Whether a model file, its external data included, has less than SMALL_BYTES."""
    return sum(file.stat().st_size for file in (path, external_data(path)) if file.exists()) < SMALL_BYTES


def wanted_providers() -> list[str]:
    """Execution providers in order of preference, from the environment; the CPU when nothing is said."""
    names = os.environ.get(PROVIDERS_VARIABLE, CPU)
    return [name.strip() for name in names.split(",") if name.strip()]


def leaves_cores(path: Path) -> bool:
    """Whether a model file's session leaves cores of the machine to others while it runs, as a small one's does."""
    return wanted_providers()[0] == CPU and threads(path) < cores()
