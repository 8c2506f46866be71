"""Errors across Triton's borders.

Triton's python backend has no DEADLINE_EXCEEDED, and between models (BLS) it drops the code altogether:
every error arrives as INTERNAL with the bare message (2.51.0). So a request from another model of ours says
so by a parameter, and is answered with the code in front of the message; `from_triton` takes it off again.
"""

from __future__ import annotations

import json
import traceback
import uuid
from typing import TYPE_CHECKING, Any

from florence2_sam2.server import records
from florence2_sam2.server.errors import Cancelled, DeadlinePassed, InvalidRequest, Overloaded, ServiceError

if TYPE_CHECKING:
    from triton_python_backend_utils import InferenceRequest, TritonError

# Request parameter of a call from another model of this repository.
BETWEEN_MODELS = "florence2_sam2_between_models"

# ServiceError.code → attribute of pb_utils.TritonError. CANCELLED is the nearest that Triton has to a
# passed deadline (UNAVAILABLE would invite a retry); the message says which.
_TRITON_CODES = {
    "INVALID_ARGUMENT": "INVALID_ARG",
    "UNAVAILABLE": "UNAVAILABLE",
    "DEADLINE_EXCEEDED": "CANCELLED",
    "CANCELLED": "CANCELLED",
    "INTERNAL": "INTERNAL",
}
_DEADLINE_PREFIX = "DEADLINE_EXCEEDED: "

# The launcher looks for dead processes four times a second, and starts the server again. The client knows these words.
_DIED = "a part of the server ({model}) has died; it is being restarted, try again"
# What Triton itself says between models, as (part of the message, kind, what we say).
_TRITONS_OWN = (
    ("Exceeds maximum queue size", Overloaded, "the queue of {model} is full, try again"),
    ("Request timeout expired", DeadlinePassed, "the request waited too long for {model}"),
    ("is not healthy", Overloaded, _DIED),
    ("health mutex", Overloaded, _DIED),  # it died while it held that
    ("shared memory", Overloaded, "the server is short of shared memory, try again later"),
    ("is not ready", Overloaded, "{model} is being restarted, try again"),
    (
        "has no available versions",
        Overloaded,
        "{model} is not loaded: the server is stopping, or being changed",
    ),
)


class ModelFailed(RuntimeError):
    """Another model answered with an error that is none of ours: a bug or a broken server."""


def refusal(error: BaseException, model: str) -> ServiceError:
    """What the caller is told. A bug of ours is logged with its traceback and shown as a reference to that
    log.
    """
    if isinstance(error, ServiceError):
        return error
    import triton_python_backend_utils as pb_utils

    reference = uuid.uuid4().hex[:12]
    details = "".join(traceback.format_exception(error))
    asked = f", request {records.request_id()}" if records.request_id() else ""
    pb_utils.Logger.log_error(f"internal error in {model}, reference {reference}{asked}\n{details}")
    return ServiceError(f"internal error in {model}, reference {reference}")


def to_triton(error: ServiceError, between_models: bool, names_code: bool = False) -> TritonError:
    """The error to answer with. `names_code`: the caller sees no code but what the message says."""
    import triton_python_backend_utils as pb_utils

    message = told(error, between_models, names_code)
    # What cannot be encoded would be no answer at all, and a caller who waits.
    sendable = message.encode("utf-8", "replace").decode()
    return pb_utils.TritonError(sendable, getattr(pb_utils.TritonError, _TRITON_CODES[error.code]))


def told(error: ServiceError, between_models: bool, names_code: bool = False) -> str:
    """The error's message, with its code where that would be lost. A wrong request's begins with its field instead."""
    named = names_code and not isinstance(error, InvalidRequest)
    if between_models or named:
        return f"{error.code}: {error.message}"
    return _DEADLINE_PREFIX + error.message if isinstance(error, DeadlinePassed) else error.message


def from_triton(message: str, model: str) -> Exception:
    """What `model` answered over BLS, as the exception that it raised there."""
    code, _, text = message.partition(": ")
    if code == InvalidRequest.code:
        field, _, problem = text.partition(": ")
        return InvalidRequest(field, problem)
    for kind in (Overloaded, DeadlinePassed, Cancelled, ServiceError):
        if code == kind.code:
            return kind(text)
    for part, kind, said in _TRITONS_OWN:
        if part in message:
            return kind(said.format(model=model))
    return ModelFailed(f"{model} answered: {message}")


def is_between_models(request: InferenceRequest) -> bool:
    """Whether another model of this repository sent the request."""
    try:
        return BETWEEN_MODELS in request.parameters()
    except UnicodeDecodeError:  # a header of a caller's
        return False


def parameters(request: InferenceRequest) -> dict[str, Any]:
    """The request's parameters; Triton hands them over as JSON.

    Raises:
        UnicodeDecodeError: the caller has sent other bytes.
    """
    read: dict[str, Any] = json.loads(request.parameters() or "{}")
    return read
