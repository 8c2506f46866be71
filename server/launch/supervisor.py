"""Keeping a server running: Triton goes on, and says READY, when one of its models' processes has died."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NoReturn

from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.launch.errors import StartError

POLL_SECONDS = 0.25
# More deaths than this within the time mean that restarting does not help.
MAX_RESTARTS = 5
RESTARTS_SECONDS = 300.0


def supervise(
    server: EmbeddedServer, on_failure: Callable[[str], None], on_ready: Callable[[], None]
) -> NoReturn:
    """Watch a ready server, and start it again when one of its processes has died. An exception ends it.

    Args:
        on_failure: called with what has happened, before the restart.
        on_ready: called after the restart.

    Raises:
        StartError: the server dies again and again, or cannot be started any more.
    """
    restarts: list[float] = []
    while True:
        try:
            server.check_alive()
        except StartError as error:
            now = time.monotonic()
            restarts = [then for then in restarts if now - then < RESTARTS_SECONDS]
            if len(restarts) == MAX_RESTARTS:
                raise StartError(f"{error}; given up after {MAX_RESTARTS} restarts") from None
            restarts.append(now)
            on_failure(str(error))
            server.restart()
            server.wait_ready()
            on_ready()
        time.sleep(POLL_SECONDS)
