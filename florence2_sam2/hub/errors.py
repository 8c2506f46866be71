"""What the hub refuses, or cannot give now.

HubError             one line that says what is wrong and what to do
└── Unavailable      no connection, offline mode, a rate limit, a fault of the hub's own: later it may work, and
                     what was downloaded before will do
"""

from __future__ import annotations


class HubError(Exception):
    """The hub does not give what was asked for. The message is one line, with what to do."""


class Unavailable(HubError):
    """The hub does not answer now. `retry_after`: seconds after which it asked to be asked again."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
