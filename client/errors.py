"""What a call can fail with: one class for each thing a caller can do about it.

    SegmenterError
    ├── InvalidRequest      the request is wrong: mend it           INVALID_ARGUMENT
    ├── CannotConnect       no server answers there, or it left     UNAVAILABLE, said by the channel
    ├── ServerOverloaded    the server refused it: try again later  UNAVAILABLE, said by the server (or a dead part's)
    ├── DeadlineExceeded    `timeout` has passed                    DEADLINE_EXCEEDED
    ├── RequestCancelled    the call was cancelled                  CANCELLED
    ├── ModelNotFound       that server has no `segment` model      NOT_FOUND
    └── ServerError         a fault of the server's                 INTERNAL and every other code

Mistakes that need no server to be seen are Python's own errors: a file that is not there is
FileNotFoundError, an object that is no picture is TypeError, an array of the wrong form is ValueError.
"""

from __future__ import annotations

import re

from tritonclient.utils import InferenceServerException

# What gRPC's own channel says when it is not the server that answered UNAVAILABLE. The status alone does not
# tell (nor does the debug string of newer grpcio), so its wording has to.
_FROM_THE_CHANNEL = re.compile(
    r"failed to connect to all addresses|connections to all backends failing"
    r"|errors resolving|(dns|name) resolution (failed|failure)"
    r"|socket closed|connection (reset|refused|aborted|attempt timed out|closed)|broken pipe|goaway"
    r"|cancelling all calls|keepalive|(recv|send)msg:|transport (closed|is closing)|channel (closed|is shut)"
    r"|ssl|handshake|no route to host|network is unreachable",
    re.IGNORECASE,
)
# Among these, that the request has not been sent; else the connection broke with it under way.
_NOT_SENT = re.compile(
    r"failed to connect to all addresses|connections to all backends failing"
    r"|errors resolving|(dns|name) resolution (failed|failure)"
    r"|connection (refused|attempt timed out)|ssl|handshake|no route to host|network is unreachable",
    re.IGNORECASE,
)
# A model's process has died, and the launcher is about to start the server again: as Triton says it (INTERNAL) of the
# model that was asked, and as our models say it of another one.
_RESTARTING = re.compile(
    r"Stub process \S+ is not healthy|obtain the health mutex|has died; it is being restarted"
)
# The server ends: of a model that is unloaded already (NOT_FOUND, UNKNOWN of a stream), of Triton's own end, and of
# ours, when the time for what is in flight is over.
_STOPPING = re.compile(
    r"has no available versions$|Server not ready$|the server is stopping$|Server is stopping", re.IGNORECASE
)
# There is no room in shared memory for what was sent, in Triton's words, with a name in them that means nothing here.
_SHORT_OF_MEMORY = re.compile(r"shared memory pool|shared memory region|No space left on device")
# Triton's python models have no DEADLINE_EXCEEDED: the server sends CANCELLED with this in front of the message.
_DEADLINE = "DEADLINE_EXCEEDED: "
# What the channel itself says when the time is over: the longer form where the server ends the call at that moment.
_OUT_OF_TIME = re.compile(r"Deadline Exceeded|Stream removed \(Deadline Exceeded\)", re.IGNORECASE)
# A server's message that names a field begins with it: "area_threshold: must be …".
_FIELD = re.compile(r"([a-z]\w*(?:\.[^\s:]+)?): ")


class SegmenterError(Exception):
    """Base of all. `message` is one sentence, `code` the gRPC status it came from, `request_id` what the call is known
    by in the servers' logs; None of an error that belongs to no call.
    """

    code = "UNKNOWN"
    request_id: str | None = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(SegmenterError):
    """The server refused the request as wrong. `field` is the input it names, None when it names none."""

    code = "INVALID_ARGUMENT"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        named = _FIELD.match(message)
        self.field: str | None = named[1] if named else None


class CannotConnect(SegmenterError):
    """Nothing answers at the address, or the connection broke while the call was under way (`broke`)."""

    code = "UNAVAILABLE"

    def __init__(self, message: str, broke: bool = False) -> None:
        super().__init__(message)
        self.broke = broke


class ServerOverloaded(SegmenterError):
    """The server is full, about to end (`stopping`), or a part of it has died and is being restarted (`restarting`);
    the same request may pass later, or at another server.
    """

    code = "UNAVAILABLE"

    def __init__(self, message: str, restarting: bool = False, stopping: bool = False) -> None:
        super().__init__(message)
        self.restarting = restarting
        self.stopping = stopping


class DeadlineExceeded(SegmenterError):
    """The timeout has passed, here or at the server. The server stops working on the request."""

    code = "DEADLINE_EXCEEDED"


class RequestCancelled(SegmenterError):
    """The call was cancelled before it was answered."""

    code = "CANCELLED"


class ModelNotFound(SegmenterError):
    """A Triton server answers there, but it does not serve the model."""

    code = "NOT_FOUND"


class ServerError(SegmenterError):
    """The server failed, or its answer could not be understood. `code` is the status it gave."""

    code = "INTERNAL"

    def __init__(self, message: str, code: str = "INTERNAL") -> None:
        super().__init__(message)
        self.code = code


_BY_CODE: dict[str, type[SegmenterError]] = {
    error.code: error
    for error in (InvalidRequest, ServerOverloaded, DeadlineExceeded, RequestCancelled, ModelNotFound)
}


def from_status(code: str, message: str, address: str, timeout: float | None = None) -> SegmenterError:
    """The error for a gRPC status `code` ("UNAVAILABLE" …) with the `message` that came with it.

    `timeout` is the call's, in seconds, None for none.
    """
    if code == "UNAVAILABLE" and _FROM_THE_CHANNEL.search(message):
        return CannotConnect(f"no connection to {address}: {message}", not _NOT_SENT.search(message))
    if code in ("UNAVAILABLE", "INTERNAL") and _RESTARTING.search(message):
        return ServerOverloaded(f"a part of {address} has died; it is being restarted, try again", True)
    if code == "INTERNAL" and _SHORT_OF_MEMORY.search(message):
        return ServerOverloaded(f"{address} is short of shared memory, try again later")
    if code != "INVALID_ARGUMENT" and _STOPPING.search(message):
        return ServerOverloaded(f"{address} is stopping or loading its models", stopping=True)
    if code == "CANCELLED" and message.startswith(_DEADLINE):
        return DeadlineExceeded(message.removeprefix(_DEADLINE))
    if _OUT_OF_TIME.fullmatch(message) or (code == "DEADLINE_EXCEEDED" and not message):
        limit = "in time" if timeout is None else f"in time: the timeout is {timeout:g} s"
        return DeadlineExceeded(f"{address} did not answer {limit}")
    if code in _BY_CODE:
        return _BY_CODE[code](message)
    return ServerError(message, code)


def from_triton(
    error: InferenceServerException, address: str, timeout: float | None = None
) -> SegmenterError:
    """The same for the one exception class that tritonclient raises."""
    code = str(error.status() or "UNKNOWN").removeprefix("StatusCode.")
    return from_status(code, str(error.message() or ""), address, timeout)
