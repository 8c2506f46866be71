"""Requests that wait for rows of the decoder, and who of them comes next."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from florence2_sam2.server.errors import Cancelled
from florence2_sam2.server.generation.decoder import ImageFeatures
from florence2_sam2.server.generation.settings import Settings

Priority = Literal["interactive", "bulk"]
PRIORITIES: tuple[Priority, ...] = ("interactive", "bulk")


@dataclass(frozen=True)
class Completed:
    """A request's answer and what it cost.

    `token_ids`: without the decoder's start token. `log_probability`: their sum. `token_log_probabilities`: each one's.
    `steps`: decoder runs it took part in. Seconds: waiting for rows, in the text encoder, and from its first to its
    last step.
    """

    token_ids: list[int]
    log_probability: float
    token_log_probabilities: list[float]
    steps: int
    waiting_s: float
    encoding_s: float
    decoding_s: float


@dataclass(frozen=True, eq=False)
class Request:
    """One sequence to generate. `cancelled` and `progress` may also raise: the request then fails with that error."""

    image_features: ImageFeatures
    prompt_ids: NDArray[np.int64]  # [P]
    settings: Settings
    priority: Priority
    cancelled: Callable[[], bool]
    progress: Callable[[list[int]], None] | None = None
    alone: bool = False
    future: Future[Completed] = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)

    def is_wanted(self) -> bool:
        """Whether its caller still waits; otherwise its future has been answered."""
        if self.future.cancelled():
            return False
        # The callback is the caller's code: whatever it raises is this request's error and nobody else's.
        try:
            if not self.cancelled():
                return True
            self.fail(Cancelled("the caller has gone"))
        except Exception as error:
            self.fail(error)
        return False

    def fail(self, error: Exception) -> None:
        if self.future.running() or self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Waiting:
    """First come, first served, interactive before bulk.

    Bulk fills the time that interactive requests leave: while one of those is decoding, bulk joins only after
    `bulk_patience` seconds, and never takes the last `interactive_rows` rows. Nobody overtakes the head of its
    line, so a request that needs many rows gets them. Not thread-safe.
    """

    def __init__(self, interactive_rows: int, bulk_patience: float) -> None:
        self._interactive_rows = interactive_rows
        self._bulk_patience = bulk_patience
        self._lines: dict[Priority, deque[Request]] = {name: deque() for name in PRIORITIES}

    def __len__(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def put(self, request: Request) -> None:
        self._lines[request.priority].append(request)

    def take(self, free_rows: int, interactive_decoding: bool, idle: bool) -> Request | None:
        """The request that may begin now. `idle`: nothing is decoding, so that whoever comes first fits."""
        interactive, bulk = self._lines["interactive"], self._lines["bulk"]
        if interactive:
            return interactive.popleft() if interactive[0].settings.num_beams <= free_rows else None
        if not bulk:
            return None
        impatient = time.monotonic() - bulk[0].submitted > self._bulk_patience
        if interactive_decoding and not impatient:
            return None
        fits = bulk[0].settings.num_beams <= free_rows - self._interactive_rows
        return bulk.popleft() if fits or idle else None

    def everyone(self) -> list[Request]:
        return [request for line in self._lines.values() for request in line]

    def leave(self, requests: Collection[Request]) -> None:
        for priority, line in self._lines.items():
            self._lines[priority] = deque(request for request in line if request not in requests)

    def drain(self) -> list[Request]:
        everyone = self.everyone()
        self.leave(everyone)
        return everyone
