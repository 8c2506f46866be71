"""What one side, a server or a client, allows of the URLs that it fetches, and how it says no.

    UrlError
    ├── RefusedUrl       malformed, or the rules do not allow it: nothing was sent
    └── FetchFailed      what is behind it is missing, too slow, no picture
        └── TooLarge     … larger than `UrlRules.max_bytes`
    DeadlineReached      the caller's own time is up

Messages are for the caller: a sentence's end that says what is wrong, with no address in it that a name stands for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


class UrlError(ValueError):
    """A URL cannot be fetched."""


class RefusedUrl(UrlError):
    """The URL is malformed or may not be fetched."""


class FetchFailed(UrlError):
    """The URL may be fetched, but there is no picture to be had from it."""


class TooLarge(FetchFailed):
    """What is behind the URL has more than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the picture has more than {limit} bytes")
        self.limit = limit


class DeadlineReached(Exception):
    """The caller's deadline has come before the picture, and before the rules' own time was up."""


@dataclass(frozen=True)
class UrlRules:
    """Which URLs may be fetched, how long it may take, and how much may come. The defaults are a server's too.

    http and https only, and only from hosts all of whose addresses are public; no proxy is used.

    Raises:
        ValueError, TypeError: a value that makes no sense; the message begins with its name.
    """

    allow: Sequence[str] = ()
    """`host:port` pairs that may be fetched from although private, or on another port than `ports`."""
    ports: Sequence[int] = (80, 443)
    """Ports that a URL may name."""
    connect_seconds: float = 3.0
    """For one connection, all addresses of its host together."""
    total_seconds: float = 10.0
    """For a picture, everything included."""
    max_redirects: int = 3
    max_bytes: int = 32 * 2**20
    """Largest picture, in bytes."""

    def __post_init__(self) -> None:
        for name in ("allow", "ports"):
            value = getattr(self, name)
            if isinstance(value, (str, int)):
                raise TypeError(f"{name}: several are wanted; write ({value!r},)")
        object.__setattr__(self, "allow", tuple(pair.lower() for pair in self.allow))
        object.__setattr__(self, "ports", tuple(self.ports))
        for pair in self.allow:
            if not is_pair(pair):
                raise ValueError(f"allow: {pair!r} is no host:port pair")
        if not self.ports or not all(0 < port < 65536 for port in self.ports):
            raise ValueError(f"ports: {self.ports!r}, at least one from 1 to 65535 is needed")
        for name in ("connect_seconds", "total_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: {getattr(self, name)}, more than 0 is needed")
        for name, least in (("max_redirects", 0), ("max_bytes", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)}, at least {least} is needed")


def is_pair(text: str) -> bool:
    """Whether `text` is `host:port`."""
    host, _, port = text.rpartition(":")
    return bool(host) and port.isascii() and port.isdigit() and 0 < int(port) < 65536
