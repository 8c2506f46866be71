"""Several processes that train one model: each draws scenes of its own, and before every step gradients are averaged.

With few cores this beats more threads in one process: the layers are too small to be shared out.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn


class Team:
    """This process among `size` of them. One alone does nothing here."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def leads(self) -> bool:
        """Whether this process writes the log and the state."""
        return self.rank == 0

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by the mean of all processes'. All must have gradients of the same parameters."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(together)
        together /= self.size
        for gradient, part in zip(
            gradients, together.split([gradient.numel() for gradient in gradients]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))

    def agree(self, value: float) -> float:
        """The leader's value, so that all leave a loop at the same step."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(shared, 0)
        return float(shared)


def run(size: int, meeting_place: Path, work: Callable[[Team], None]) -> None:
    """Call `work` in `size` processes; `meeting_place` is a file that must not exist and is left behind."""
    if size == 1:
        work(Team())
        return
    meeting_place.unlink(missing_ok=True)
    context = multiprocessing.get_context("fork")
    others = [
        context.Process(target=_join, args=(rank, size, meeting_place, work), daemon=True)
        for rank in range(1, size)
    ]
    for process in others:
        process.start()
    _join(0, size, meeting_place, work)
    for process in others:
        process.join()
        if process.exitcode:
            raise RuntimeError(f"a worker ended with exit code {process.exitcode}")


def _join(rank: int, size: int, meeting_place: Path, work: Callable[[Team], None]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting_place.resolve()}", rank=rank, world_size=size
    )
    try:
        work(Team(rank, size))
    finally:
        dist.destroy_process_group()
