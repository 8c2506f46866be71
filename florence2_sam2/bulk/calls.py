"""One picture's call: tried again while it is the servers that fail, given up where it is the picture."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from florence2_sam2.bulk.errors import BulkError
from florence2_sam2.bulk.pace import Pace
from florence2_sam2.client import (
    CannotConnect,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    RequestCancelled,
    Segmentation,
    SegmenterError,
    ServerOverloaded,
)

# How often a picture may be there when a server's connection breaks, or fail with an error of the server's, before the
# picture is taken for the cause. Fewer times than the launcher starts a server again (MAX_RESTARTS in
# server/launch/supervisor.py): one bad picture must not take a server away from all others.
MOST_TRIES = 3
# So many pictures in a row that are given up so: it is the server after all.
MOST_IN_A_ROW = 20
_FIRST_PAUSE, _LONGEST_PAUSE, _FACTOR, _SPREAD = 0.1, 5.0, 2.0, 0.3
_NOBODY = ("UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED")  # it would be so for every picture


class PictureFailed(Exception):
    """There will be no result for this picture. `code`: gRPC's word for the reason."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class NoServer(BulkError):
    """No server has answered for too long, or none that could."""


class Calls:
    """Calls of pictures, `pace` of them at once.

    A server that is full, restarted, or away costs no picture: the call is made again, until no server has answered
    anything for `patience` seconds.

    Args:
        segment: makes one call, and does not try again by itself.
        patience: seconds.
    """

    def __init__(
        self,
        segment: Callable[[bytes | str], Awaitable[Segmentation]],
        pace: Pace,
        patience: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._segment, self._pace, self._patience = segment, pace, patience
        self._clock, self._sleep = clock, sleep
        self._heard = clock()
        self._given_up = 0

    async def ask(self, picture: bytes | str) -> Segmentation:
        """The answer.

        Raises:
            PictureFailed: the picture is refused, or fails again and again.
            NoServer: nobody answers.
        """
        blamed = pauses = 0
        while True:
            # A picture that was there when something broke is asked about alone, so that no other one is blamed for it.
            async with self._pace.place(alone=blamed > 0) as place:
                try:
                    answer = await self._segment(picture)
                except SegmenterError as raised:
                    error = raised
                else:
                    self._heard, self._given_up = self._clock(), 0
                    await self._pace.answered()
                    return answer
            if isinstance(error, ModelNotFound) or error.code in _NOBODY:
                raise NoServer(error.message)
            away = isinstance(error, CannotConnect)
            if not away:
                self._heard = self._clock()
            if isinstance(error, InvalidRequest):
                await self._pace.answered()
                raise PictureFailed(error.code, error.message)
            if isinstance(error, (CannotConnect, ServerOverloaded, DeadlineExceeded)):
                self._pace.refused(place)
            blamed += _is_suspect(error)
            if blamed >= MOST_TRIES:
                self._given_up += 1
                if self._given_up >= MOST_IN_A_ROW:
                    raise NoServer(
                        f"{self._given_up} pictures in a row failed by no fault of their own ({error.message})"
                    )
                raise PictureFailed(error.code, error.message)
            if away and self._clock() - self._heard > self._patience:
                raise NoServer(f"no server has answered for {self._patience:.0f} s ({error.message})")
            pause = min(_FIRST_PAUSE * _FACTOR ** min(pauses, 10), _LONGEST_PAUSE)
            pauses += 1
            await self._sleep(pause * random.uniform(1 - _SPREAD, 1 + _SPREAD))


def _is_suspect(error: SegmenterError) -> bool:
    """Whether the picture may be the cause: it was under way when the connection broke or a part of the server died,
    took too long, or met a fault of the server's."""
    if isinstance(error, CannotConnect):
        return error.broke
    if isinstance(error, ServerOverloaded):
        return error.restarting
    return not isinstance(error, RequestCancelled)
