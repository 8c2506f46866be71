"""What both trainings share: a clock with a learning-rate schedule, a log, and resumable state."""

import json
import math
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


class Clock:
    """Elapsed minutes of this process's processor time, counted on over interruptions.

    Not the clock on the wall: a busy machine, or a pause, must not shorten a schedule.
    """

    def __init__(self, minutes: float, elapsed: float = 0.0) -> None:
        self.minutes = minutes
        self._start = time.process_time() - elapsed * 60

    @property
    def elapsed(self) -> float:
        return (time.process_time() - self._start) / 60

    @property
    def fraction(self) -> float:
        return self.elapsed / self.minutes


def learning_rate(peak: float, step: int, fraction: float, warm_up: int = 100, floor: float = 0.02) -> float:
    """Linear warm-up over steps, then a cosine over the fraction of the time that has passed."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, fraction)))
    return peak * min(1.0, (step + 1) / warm_up) * (floor + (1 - floor) * cosine)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("share", 1.0)


class Log:
    """Averages of what is added, written as one JSON line every `seconds`, to a file and to stdout."""

    def __init__(self, path: Path, seconds: float = 60) -> None:
        self._path, self._seconds = path, seconds
        self._last = time.monotonic()
        self._sums: dict[str, list[float]] = defaultdict(list)

    def add(self, **values: torch.Tensor | float) -> None:
        for name, value in values.items():
            self._sums[name].append(float(value))

    def due(self) -> bool:
        return time.monotonic() - self._last > self._seconds

    def write(self, **facts: Any) -> None:
        record = {k: round(v, 5) if isinstance(v, float) else v for k, v in facts.items()}
        record |= {k: round(float(np.nanmean(v)), 4) for k, v in self._sums.items()}
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(json.dumps(record), flush=True)
        self._sums.clear()
        self._last = time.monotonic()


def save_state(path: Path, modules: dict[str, nn.Module], rng: np.random.Generator, **facts: Any) -> None:
    """Everything that continuing needs, written beside the old state and then moved over it."""
    state = {name: module.state_dict() for name, module in modules.items()}
    temporary = path.with_suffix(".part")
    torch.save(state | {"rng": rng.bit_generator.state, **facts}, temporary)
    temporary.replace(path)


def load_state(path: Path, modules: dict[str, nn.Module], rng: np.random.Generator) -> dict[str, Any]:
    """Restore `save_state`'s modules and random numbers in place; returns the other facts.

    A module of which the state knows nothing stays as it is.
    """
    state: dict[str, Any] = torch.load(path, weights_only=False)
    for name, module in modules.items():
        if name in state:
            module.load_state_dict(state.pop(name))
    rng.bit_generator.state = state.pop("rng")
    return state
