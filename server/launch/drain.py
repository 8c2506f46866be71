"""Finishing what is in flight before Triton is told to stop.

Triton's own way down refuses every new request to every model at once, and a call from one model to another
or the next step of an ensemble is a new request: what `segment` or `sam2` is working on would fail half-way
(2.51.0). So the models that call others are unloaded first, callers before those they call; Triton lets an
unloading model finish. To unload a python model takes it a second, to see that its process is alive, so those that do
not call each other go together. Where nothing is in flight no group waits for the one before to be gone: each is
only asked once more whether a last call has come to it through that one's door.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from florence2_sam2.server.launch.connection import Connection, NoAnswer, Refused

# Each may call those in the groups after its own, and all that are in none.
CALLING: tuple[Sequence[str], ...] = (
    ("segment_stream", "segment_http"),
    ("segment",),
    ("florence2", "sam2"),
)
# Those that may have another model to call yet, and the output that they tell their health in. (sam2 tells nothing: it
# is an ensemble, without a process, and so is unloaded at once.)
CALLERS = {"segment_stream": "event", "segment_http": "result", "segment": "result", "florence2": "info"}
POLL_SECONDS = 0.05
PASS_SECONDS = 0.1  # for a call that came through a door just before it was shut to reach the next model
_HEALTH_SECONDS = 2.0
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
    shut: list[str] = []
    idle = True
    try:
        for group in CALLING:
            # A call that has come through a door that is shut by now would find the next one shut, half-way.
            if idle and shut:
                time.sleep(PASS_SECONDS)
            idle = idle and _is_idle(connection)
            if not idle and not _gone(connection, shut, end):
                return False
            shut += _unload(connection, group, seconds)
        if not _gone(connection, ("sam2",) if idle else shut, end):
            return False
        _unload(connection, None, seconds)
        return _gone(connection, None, end)
    except (NoAnswer, Refused):  # the server has gone, or hangs: there is nothing to wait for
        return False


def _gone(connection: Connection, models: Sequence[str] | None, end: float) -> bool:
    """Whether all of these, None for all there are, are unloaded by then."""
    while _found(connection, models, _BUSY):
        if time.monotonic() > end:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _is_idle(connection: Connection) -> bool:
    """Whether no request is under way in a loaded model that has others to call yet, as far as is known."""
    found = states(connection)
    try:
        told = [
            json.loads(
                connection.post(f"/v2/models/{model}/generate", {"health": True}, _HEALTH_SECONDS)[output]
            )
            for model, output in CALLERS.items()
            if found.get(model) == "READY"
        ]
    except (NoAnswer, Refused):
        return False
    return not any(state["in_flight"] for state in told)


def _unload(connection: Connection, models: Sequence[str] | None, seconds: float) -> list[str]:
    """Shut their doors. Returns those that were open."""
    loaded = _found(connection, models, ("READY",))
    for model in loaded:
        connection.post(f"/v2/repository/models/{model}/unload", seconds=seconds)
    return loaded


def _found(connection: Connection, models: Sequence[str] | None, wanted: Sequence[str]) -> list[str]:
    """Which of these models, None for all, are what is `wanted`."""
    found = states(connection)
    return [name for name in (found if models is None else models) if found.get(name) in wanted]


def states(connection: Connection) -> dict[str, str]:
    """What each model of the repository is, READY for instance; "" of one that was never loaded."""
    return {row["name"]: row.get("state", "") for row in connection.post("/v2/repository/index")}
