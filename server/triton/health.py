"""Health requests: a few milliseconds through a model's process, its messages and its event loop, past all that waits.

A request with the parameter `health` (true) and no inputs is answered with a `State`. Each model asks the next one that
answers from an event loop: `segment_http` and `segment_stream` ask `segment`, which asks `florence2`. No graph is run,
so that one may ask every second; and a full queue does not make a server that works look dead.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from florence2_sam2.server.errors import InvalidRequest, Overloaded
from florence2_sam2.server.triton import bls

if TYPE_CHECKING:
    from triton_python_backend_utils import InferenceRequest

PARAMETER = "health"
# For a model to answer. A process that shares its cores with all others needs some milliseconds.
SECONDS = 5.0
FRONT_SECONDS = SECONDS + 2.0  # for one that asks another in its turn


class State(TypedDict):
    """What a model tells of itself and of those it has asked.

    `in_flight`: requests that it works on or keeps waiting; `waiting`: of these, those that wait for a place;
    `answered`: requests that it has answered since its start, well or not. `progress` grows whenever a request moves
    on, by an answer of another model, a token, or computing. `waits_for`: the models that calls of this process wait
    for, and for how many seconds each has answered none of them. `decoder_still`: for how many seconds a text has been
    under way and no token has come.
    """

    healthy: bool
    in_flight: int
    waiting: int
    answered: int
    progress: int
    waits_for: dict[str, float]
    decoder_still: float


def check(parameters: Mapping[str, Any], request: InferenceRequest) -> None:
    """Refuse what is half a health request.

    Raises:
        InvalidRequest: the parameter is not true, or there are inputs beside it.
    """
    if parameters[PARAMETER] is not True or request.inputs():
        raise InvalidRequest(PARAMETER, "must be true, and goes with no other field")


async def ask(model: str, output: str, seconds: float = SECONDS) -> State:
    """What another model says.

    Args:
        output: the tensor that its answer comes in.

    Raises:
        Overloaded: it does not answer, or is not well. (UNAVAILABLE is the code, and naming the model the point.)
    """
    running = _asked.get(model)
    if running is None or running.done():
        # One question at a time: those that are not answered must not take the threads of those that would be.
        running = _asked[model] = asyncio.ensure_future(_ask(model, output))
    try:
        return await asyncio.wait_for(asyncio.shield(running), seconds)
    except TimeoutError:
        raise Overloaded(f"{model} has not answered for {seconds:g} s whether it is well") from None


def with_parts(own: State, part: State) -> State:
    """A model's own state with that of a model that it has asked."""
    return {
        **own,
        "healthy": own["healthy"] and part["healthy"],
        "progress": own["progress"] + part["progress"],
        "waits_for": {**own["waits_for"], **part["waits_for"]},
        "decoder_still": max(own["decoder_still"], part["decoder_still"]),
    }


_asked: dict[str, asyncio.Future[State]] = {}


async def _ask(model: str, output: str) -> State:
    answer = await bls.call_ahead(model, {PARAMETER: True}, output)
    state: State = json.loads(answer[0])
    return state
