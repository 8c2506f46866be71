"""onnxruntime sessions whose provider and thread count are what was asked for."""

from __future__ import annotations

import ctypes
import functools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from florence2_sam2.server.manifest import external_data

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

THREADS_VARIABLE = "FLORENCE2_SAM2_THREADS"
SPIN_VARIABLE = "FLORENCE2_SAM2_SPIN_MICROSECONDS"
PROVIDERS_VARIABLE = "FLORENCE2_SAM2_PROVIDERS"
PROVIDER_OPTIONS_VARIABLE = "FLORENCE2_SAM2_PROVIDER_OPTIONS"
# "quota period" in microseconds, or "max period": what Kubernetes makes of a limit on CPUs.
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


# A graph this small runs for a millisecond or so per call, and waking a second thread costs more than it saves: with
# one thread each, the demo models answered 8 callers 1.4 times as fast on 2 cores.
SMALL_BYTES = 8 * 2**20
MAX_SMALL_THREADS = 4  # its nodes are too small for more

# A sleeping thread takes some ten microseconds to wake, at each node of a graph that it shares; a step of a full-size
# decoder has hundreds. So idle threads look for work as long as it takes from one such node to the next, and not for
# onnxruntime's own second and more, since other processes want the cores.
SPIN_MICROSECONDS = 50
BOUNDED_SPIN = (1, 26)  # the first onnxruntime that can end it after a time


class ProviderError(RuntimeError):
    """The execution provider that was asked for is not the one in use, or what it was told is malformed."""


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


def spin_microseconds() -> int:
    """How long idle threads of a session look for work before they sleep: the environment's, else SPIN_MICROSECONDS; 0
    where onnxruntime cannot end it."""
    version = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    return int(os.environ.get(SPIN_VARIABLE, SPIN_MICROSECONDS)) if version >= BOUNDED_SPIN else 0


def wanted_providers() -> list[str]:
    """Execution providers in order of preference, from the environment; the CPU when nothing is said."""
    names = os.environ.get(PROVIDERS_VARIABLE, CPU)
    return [name.strip() for name in names.split(",") if name.strip()]


def provider_options() -> dict[str, str]:
    """What the first wanted provider is told, by onnxruntime's names for it, from the environment: `name=value,…`.

    Raises:
        ProviderError: it is written another way.
    """
    parts = [
        part.strip() for part in os.environ.get(PROVIDER_OPTIONS_VARIABLE, "").split(",") if part.strip()
    ]
    pairs = [part.partition("=") for part in parts]
    wrong = [part for part, (name, _, value) in zip(parts, pairs, strict=True) if not (name and value)]
    if wrong:
        raise ProviderError(f"{PROVIDER_OPTIONS_VARIABLE} has {wrong[0]!r}, expected name=value,name=value")
    return {name.strip(): value.strip() for name, _, value in pairs}


def open_session(
    path: Path,
    providers: list[str] | None = None,
    intra_op_threads: int | None = None,
    reuse_memory: bool = True,
    as_listed: bool = False,
    plan_memory: bool = False,
    profile: Path | None = None,
) -> onnxruntime.InferenceSession:
    """Load an ONNX file. Without `reuse_memory` it loads faster and keeps every inner value until a run ends; with
    `as_listed` nodes run in the file's order as far as possible, not backwards from each output. With `plan_memory`
    the second run of a shape takes all its inner values' memory at once, beside what the first one took piece by piece:
    a tenth less time for a graph of small nodes, and twice the memory. With `profile`, the beginning of a file's name,
    onnxruntime writes down each node's time until `end_profiling`.

    onnxruntime takes all cores for each session, spins long while idle, and falls back to the CPU without a word when a
    GPU provider cannot start. Here threads are explicit, idle threads soon sleep (several processes share the cores),
    and a missing provider is an error.

    Raises:
        ProviderError: a wanted provider is not installed or did not start.
    """
    wanted = providers or wanted_providers()
    told = {} if providers else provider_options()
    _require(wanted)
    options = _options(intra_op_threads or threads(path))
    options.enable_mem_reuse = reuse_memory
    options.enable_mem_pattern = plan_memory
    # Weights that are rearranged for the processor go back to the system, not to the pool for inner values.
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    if as_listed:
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    session = onnxruntime.InferenceSession(str(path), options, providers=[(wanted[0], told), *wanted[1:]])
    _trim()
    _require_use(session, wanted[0], path.name)
    return session


def session_alone(
    path: Path, session: onnxruntime.InferenceSession, tries: Sequence[Mapping[str, Any]]
) -> onnxruntime.InferenceSession:
    """The session for a request that has the machine to itself: a second one with more threads if `path` is small, else
    `session`, the one for all others.

    What else is under way must not change an answer, so the second one is taken only if it gives the same bits.

    Args:
        tries: inputs to see that with.
    """
    several = threads_alone(path)
    if not several:
        return session
    second = open_session(path, intra_op_threads=several)
    same = all(
        np.array_equal(one, other)
        for feeds in tries
        for one, other in zip(session.run(None, feeds), second.run(None, feeds), strict=True)
    )
    return second if same else session


def open_graph(model: bytes) -> onnxruntime.InferenceSession:
    """Load a small ONNX model from memory, on the wanted providers. Where TensorRT is the first of them, on CUDA's:
    nothing says that TensorRT writes in place, and it would build an engine for each shape.

    Raises:
        ProviderError: as `open_session`.
    """
    wanted, told = wanted_providers(), provider_options()
    if wanted[0] == TENSORRT:
        wanted, told = [CUDA], {}
    _require(wanted)
    session = onnxruntime.InferenceSession(model, _options(1), providers=[(wanted[0], told), *wanted[1:]])
    _require_use(session, wanted[0], "a graph")
    return session


def device_of(session: onnxruntime.InferenceSession) -> str:
    """Where the session's first provider has its memory, in onnxruntime's words."""
    return "cuda" if session.get_providers()[0] in (CUDA, TENSORRT) else "cpu"


def _options(intra_op_threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    spin = spin_microseconds()
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    if spin:
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(spin))
    options.log_severity_level = 3
    return options


def _require(wanted: list[str]) -> None:
    missing = [name for name in wanted if name not in onnxruntime.get_available_providers()]
    if missing:
        raise ProviderError(
            f"onnxruntime has no {', '.join(missing)}; it has {', '.join(onnxruntime.get_available_providers())}"
        )
    if {CUDA, TENSORRT} & set(wanted):
        _load_cuda()


@functools.cache
def _load_cuda() -> None:
    """CUDA and cuDNN as wheels, which the extra `server-gpu` brings, lie where no loader looks: onnxruntime finds and
    loads them, from 1.21 on. Where there are none, as in NVIDIA's images, it takes the system's."""
    load = getattr(onnxruntime, "preload_dlls", None)
    if load is not None:
        load()


def _require_use(session: onnxruntime.InferenceSession, wanted: str, name: str) -> None:
    if session.get_providers()[0] != wanted:
        raise ProviderError(f"{name} runs on {session.get_providers()[0]}, not on {wanted} as asked for")


def _trim() -> None:
    """Hand what loading a model has freed back to the system: a third of what SAM2's image encoder takes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
