"""When a call is tried again: what for, how often, and after what pause.

gRPC's own retry policy is not used: it makes five attempts at most, too few for a server that is back after ten
seconds, and does not tell a request that never left from one that was under way when the server died.
"""

from __future__ import annotations

import random
import time

from florence2_sam2.client.errors import CannotConnect, DeadlineExceeded, SegmenterError, ServerOverloaded

RETRIES = 2
# The most. A request that kills the server must not do so more often than the launcher starts it again
# (MAX_RESTARTS in server/launch/supervisor.py).
MAX_RETRIES = 4
RECONNECT_SECONDS = 30.0

_FIRST_PAUSE, _LONGEST_PAUSE, _FACTOR = 0.1, 2.0, 3.0  # seconds, and their growth
_AWAY_PAUSE = 0.25  # between two looks for a server that is away; the channel tries to connect by itself
# Until a server whose model's process has died is being restarted: it looks for that four times a second.
_RESTARTING_PAUSE = 1.0
_SPREAD = 0.2  # of each pause, so that many clients do not come back at once


class Link:
    """What the calls of one client know together about its servers. May be used from many threads.

    Args:
        retries: how often a request is sent again.
        reconnect: seconds that a server which has answered before may be away.
    """

    def __init__(self, retries: int = RETRIES, reconnect: float = RECONNECT_SECONDS) -> None:
        self.retries = retries
        self._reconnect = reconnect if retries else 0.0
        self._answered = False
        self._away_since: float | None = None

    def answered(self) -> None:
        """A server is there."""
        self._answered, self._away_since = True, None

    def is_worth_waiting(self, stopping: bool = False) -> bool:
        """Whether servers that cannot be reached now, or are `stopping`, have been there, and that not long ago.

        When they stay away for longer than `reconnect`, later calls fail at once, until one is answered.
        """
        self._answered |= stopping
        now = time.monotonic()
        since = self._away_since
        if since is None:
            self._away_since = since = now
        return self._answered and now - since < self._reconnect


class Attempts:
    """The attempts of one call.

    Args:
        limit: seconds for all of them together, None for no limit.
    """

    def __init__(self, link: Link, limit: float | None) -> None:
        self._link = link
        self._end = None if limit is None else time.monotonic() + limit
        self._again = 0

    def left(self) -> float | None:
        """Seconds for the next attempt."""
        return None if self._end is None else max(self._end - time.monotonic(), 0.001)

    def succeeded(self) -> None:
        """The call has been answered."""
        self._link.answered()

    def pause(self, error: SegmenterError) -> float | None:
        """Seconds until the next attempt after one that has failed; None: the error is the caller's."""
        stopping = isinstance(error, ServerOverloaded) and error.stopping
        lost = isinstance(error, CannotConnect) and not error.broke
        if not stopping and not isinstance(error, (CannotConnect, DeadlineExceeded)):
            self._link.answered()
        if (lost or stopping) and self._link.is_worth_waiting(stopping):
            pause = _AWAY_PAUSE  # no server has begun with it, so this is no retry
        elif isinstance(error, (CannotConnect, ServerOverloaded)) and self._again < self._link.retries:
            pause = min(_FIRST_PAUSE * _FACTOR**self._again, _LONGEST_PAUSE)
            if isinstance(error, ServerOverloaded) and error.restarting:
                pause = max(pause, _RESTARTING_PAUSE)
            self._again += 1
        else:
            return None
        pause *= random.uniform(1 - _SPREAD, 1 + _SPREAD)
        left = self.left()
        return pause if left is None or pause < left else None
