"""What a call can be refused with.

    ServiceError
    ├── InvalidRequest      the caller's mistake: names the field       INVALID_ARGUMENT
    ├── Overloaded          no room: try again later                    UNAVAILABLE
    ├── DeadlinePassed      the caller's time is up                     DEADLINE_EXCEEDED
    └── Cancelled           the caller has gone                         CANCELLED

Anything else that leaves a model is a bug of ours and becomes INTERNAL. Messages are written for the caller: they
name a field and what would be right, never a path, a traceback or a shared-memory name.
"""

from __future__ import annotations

# As metrics and logs name them.
CODES = ("OK", "INVALID_ARGUMENT", "UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL")


def shown(text: str, length: int = 60) -> str:
    """What a caller has written, as a message may repeat it: short, on one line, of whole characters. Triton could not
    even send half a surrogate pair, and would end the message at a NUL.
    """
    return "".join(c if c.isprintable() else "\ufffd" for c in text[:length])


class ServiceError(Exception):
    """A refusal with one gRPC status code. `message` is one sentence for the caller."""

    code = "INTERNAL"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(ServiceError):
    """A caller's mistake. The message starts with the field's name."""

    code = "INVALID_ARGUMENT"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class Overloaded(ServiceError):
    """There is no room for this request now; nothing has been done for it."""

    code = "UNAVAILABLE"


class DeadlinePassed(ServiceError):
    """The caller's deadline, or a stated limit in time, has passed."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(ServiceError):
    """The caller has cancelled or gone."""

    code = "CANCELLED"
