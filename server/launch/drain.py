"""Finishing what is in flight before Triton is told to stop.

Triton's own way down refuses every new request to every model at once, and a call from one model to another
or the next step of an ensemble is a new request: what `segment` or `sam2` is working on would fail half-way
(2.51.0). So the models that call others are unloaded first, callers before those they call; Triton lets an
unloading model finish. To unload a python model takes it a second, to see that its process is alive, so those that do
not call each other go together.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from florence2_sam2.server.launch.connection import Connection, NoAnswer, Refused

# Each may call those in the groups after its own. The last group is the leaves: all that are left.
GROUPS = (("segment_stream", "segment_http"), ("segment",), ("florence2", "sam2"), None)
POLL_SECONDS = 0.05
_BUSY = ("READY", "UNLOADING")  # loaded, or still at work


def drain(connection: Connection, seconds: float) -> bool:
    """Unload all models, each when those that may call it have finished.

    Args:
        connection: with the headers that open the administration.
        seconds: for all of them together.

    Returns:
        Whether everything in flight was finished in time, as far as can be known.
    """
    end = time.monotonic() + seconds
    try:
        for group in GROUPS:
            going = _busy(connection, group)
            for model in going:
                connection.post(f"/v2/repository/models/{model}/unload", seconds=seconds)
            while _busy(connection, going):
                if time.monotonic() > end:
                    return False
                time.sleep(POLL_SECONDS)
    except (NoAnswer, Refused):  # the server has gone, or hangs: there is nothing to wait for
        return False
    return True


def _busy(connection: Connection, models: Sequence[str] | None) -> list[str]:
    """Which of these models, None for all, are not unloaded."""
    found = states(connection)
    return [name for name in (found if models is None else models) if found.get(name) in _BUSY]


def states(connection: Connection) -> dict[str, str]:
    """What each model of the repository is, READY for instance; "" of one that was never loaded."""
    return {row["name"]: row.get("state", "") for row in connection.post("/v2/repository/index")}
