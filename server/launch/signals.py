"""How a launcher is asked to stop."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class StopRequested(BaseException):
    """SIGINT or SIGTERM."""


@contextlib.contextmanager
def stop_signals() -> Iterator[None]:
    """Within, SIGINT and SIGTERM raise StopRequested. The first process of a container gets neither without that."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise StopRequested

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
