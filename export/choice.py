"""Which form of a graph this machine runs faster, by measurement.

A float32 encoder's attention is one operator of onnxruntime (`attention`) or its parts as transformers has them. What
the operator gives hangs on the processor and on the checkpoint's shapes, so both are timed here, in turns, in sessions
like the server's. What else could be chosen is settled: torch's newer exporter gives graphs that run as fast (within
4 %), and every opset that `export` offers has layer norms as one operator.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from florence2_sam2.server.onnx_session import CPU, open_session

Name = TypeVar("Name", bound=str)

ROUNDS, LONG_ROUNDS = 9, 3  # of graphs that take up to, or more than, LONG_S
LONG_S = 0.3
# The parts are chosen where they are faster by more than this: less is noise, and their scores take memory.
ADVANTAGE = 1.05


def milliseconds(files: Mapping[Name, Path], inputs: Mapping[str, NDArray[Any]]) -> dict[Name, float]:
    """The median time of a run of each file, by its form's name."""
    sessions = {name: open_session(path, [CPU]) for name, path in files.items()}
    took: dict[Name, list[float]] = {name: [] for name in files}
    slowest = max(_run(session, inputs) for session in sessions.values())  # the first run takes its memory
    for _ in range(LONG_ROUNDS if slowest > LONG_S else ROUNDS):
        for name, session in sessions.items():
            took[name].append(_run(session, inputs))
    return {name: round(1e3 * statistics.median(times), 3) for name, times in took.items()}


def best(times: Mapping[Name, float], preferred: Name) -> Name:
    """The fastest form, unless `preferred` is nearly as fast."""
    fastest = min(times, key=lambda name: times[name])
    return fastest if times[preferred] > ADVANTAGE * times[fastest] else preferred


def _run(session: Any, inputs: Mapping[str, NDArray[Any]]) -> float:
    started = time.perf_counter()
    session.run(None, dict(inputs))
    return time.perf_counter() - started
