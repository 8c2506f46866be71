"""Small servers on loopback that answer, redirect, dawdle or lie, and what a fetch from them says."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.inputs.fetch import fetch_image
from florence2_sam2.server.settings import Settings

PUBLIC = "93.184.216.34"
BODY = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
Handler = Callable[[socket.socket, bytes], None]

# Hosts that stand for no public address only, or are written so that programs disagree.
LOOPBACK_SPELLINGS = [
    "127.0.0.1",
    "localhost",
    "localhost.",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "0.0.0.0",
    "2130706433",
    "0177.0.0.1",
    "0x7f.1",
    "169.254.169.254",
    "100.100.100.200",
    "[fd00:ec2::254]",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "224.0.0.1",
    "inside.test",
    "mixed.test",
    "user@public.test",
    "public.test\\@public.test",
]


def names(host: str, port: int) -> Sequence[str]:
    """The addresses of the tests' names; a resolver."""
    return {"public.test": [PUBLIC], "mixed.test": [PUBLIC, "127.0.0.1"]}.get(host, ["127.0.0.1"])


@dataclass
class Server:
    """Calls `handle` with each connection and the request it received; counts connections."""

    handle: Handler
    reads_request: bool = True
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    _threads: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.stopped = threading.Event()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def url(self, path: str = "/a.png") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def close(self) -> None:
        self.stopped.set()
        # A thread that is about to accept must not find another server's socket under the same number.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self.stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(15)
            request = b""
            while self.reads_request and b"\r\n\r\n" not in request:
                block = connection.recv(4096)
                if not block:
                    return
                request += block
            self.requests.append(request)
            self.handle(connection, request)


def sends(data: bytes) -> Handler:
    return lambda connection, _: connection.sendall(data)


def answer(body: bytes = BODY, status: str = "200 OK", **headers: str) -> bytes:
    fields = {"Content-Type": "image/png", "Content-Length": str(len(body))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


def redirect(location: str) -> bytes:
    return answer(b"", "302 Found", Location=location)


def opened(*servers: Server, **options: Any) -> Settings:
    return Settings(url_allow=tuple(f"127.0.0.1:{server.port}" for server in servers), **options)


def refusal(url: str, settings: Settings, **options: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        fetch_image(url, settings, **options)
    assert caught.value.field == "image_url"
    return caught.value.message
