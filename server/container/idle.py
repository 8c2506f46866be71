"""Before the container is stopped: `python3 -m florence2_sam2.server.container.idle`, Kubernetes' preStop.

A pod that is to end is taken out of the service at the same time, and for some seconds calls still come. Then those in
flight and those that wait for a place are let finish, for as long as may be: the stop itself gives them half a minute.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

from florence2_sam2.server.container.options import HTTP_PORT
from florence2_sam2.server.launch import probe
from florence2_sam2.server.launch.connection import Connection, NoAnswer, Refused

DELAY_SECONDS, WAIT_SECONDS = 10.0, 60.0
POLL_SECONDS = 0.5


def main(arguments: Sequence[str]) -> int:
    """0 when nothing is in flight any more, 1 when the time is over, or nobody answers."""
    parser = argparse.ArgumentParser(prog="idle", description="Wait until nothing is in flight.")
    parser.add_argument("--http-port", type=int, default=HTTP_PORT, metavar="N", help=f"({HTTP_PORT})")
    parser.add_argument(
        "--delay",
        type=float,
        default=DELAY_SECONDS,
        metavar="S",
        help=f"wait at least so long ({DELAY_SECONDS:g})",
    )
    parser.add_argument(
        "--wait",
        type=float,
        default=WAIT_SECONDS,
        metavar="S",
        help=f"and at most so much longer ({WAIT_SECONDS:g})",
    )
    given = parser.parse_args(arguments)
    time.sleep(given.delay)
    connection = Connection(f"127.0.0.1:{given.http_port}")
    return 0 if wait_idle(lambda: _in_flight(connection), given.wait) else 1


def wait_idle(
    in_flight: Callable[[], int],
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Until nothing is in flight; False when the time is over before, or nobody answers any more."""
    end = clock() + seconds
    try:
        while in_flight():
            if clock() >= end:
                return False
            sleep(POLL_SECONDS)
    except (NoAnswer, Refused):
        return False
    return True


def _in_flight(connection: Connection) -> int:
    """Calls that `segment` works on or keeps waiting, whatever way they have come."""
    return probe.health(connection, ["segment_http"]).in_flight


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
