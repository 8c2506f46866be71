"""Every connection but those to loopback is stopped in the `connect` call itself and counted.

So no packet leaves the machine even when the policy is wrong. The servers are the tests' own, on loopback, and opened
by the allow-list.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from url_servers import Handler, Server


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    with contextlib.ExitStack() as stack:

        def start(handle: Handler, **options: Any) -> Server:
            server = Server(handle, **options)
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture(autouse=True)
def connects(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every address that is connected to. Only loopback is let through."""
    seen: list[Any] = []
    real = socket.socket.connect

    def connect(sock: socket.socket, address: Any) -> None:
        seen.append(address)
        if address[0] not in ("127.0.0.1", "::1"):
            raise OSError("stopped by the test")
        real(sock, address)

    def no_names(*_: Any, **__: Any) -> Any:
        raise OSError("no names in tests")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", no_names)
    return seen
