"""Small HTTP servers on loopback, for `image_url`: slow ones, and one that has pictures."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
# A slow body ends by itself: twice what a fetch may take.
SLOW_BYTES = 20
HEADER_SECONDS = 10.0
PROMISED_BYTES = 100_000


class Sites:
    """`slow` servers that send a byte a second, and one that serves `files` as /0, /1 … and knows nothing else.

    They run on a thread's event loop for as long as the context lasts.
    """

    def __init__(self, slow: int, files: Sequence[bytes] = ()) -> None:
        self._slow, self._files = slow, files
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sites", daemon=True)
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()
        self.slow_ports: list[int] = []
        self.port = 0
        self.fetches = 0

    @property
    def allowed(self) -> tuple[str, ...]:
        """What a server's `url_allow` has to have."""
        return tuple(f"{HOST}:{port}" for port in (self.port, *self.slow_ports))

    def slow_url(self, number: int) -> str:
        return f"http://{HOST}:{self.slow_ports[number % len(self.slow_ports)]}/slow.jpg"

    def url(self, number: int | str) -> str:
        return f"http://{HOST}:{self.port}/{number}"

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self) -> None:
        for handler in [self._serve_file] + [self._serve_slowly] * self._slow:
            server = await asyncio.start_server(handler, HOST, 0)
            self._servers.append(server)
            self.slow_ports.append(server.sockets[0].getsockname()[1])
        self.port = self.slow_ports.pop(0)

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve_file(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with self._connection(writer):
            path = await _path(reader)
            number = int(path) if path.isdecimal() else len(self._files)
            status, body = "404 Not Found", b""
            if number < len(self._files):
                status, body = "200 OK", self._files[number]
            writer.write(_head(status, len(body)) + body)
            await writer.drain()

    async def _serve_slowly(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with self._connection(writer):
            await _path(reader)
            writer.write(_head("200 OK", PROMISED_BYTES) + b"\xff\xd8")
            for _ in range(SLOW_BYTES):
                await writer.drain()
                await asyncio.sleep(1)
                writer.write(b"\xff")

    @contextlib.asynccontextmanager
    async def _connection(self, writer: asyncio.StreamWriter) -> AsyncIterator[None]:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self.fetches += 1
        try:
            # Whoever fetches leaves as it likes.
            with contextlib.suppress(
                OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError
            ):
                yield
        finally:
            self._connections.discard(task)
            writer.close()


async def _path(reader: asyncio.StreamReader) -> str:
    """The path that is asked for, without its slash."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEADER_SECONDS)
    return head.split(b" ", 2)[1].decode("ascii", "replace").lstrip("/")


def _head(status: str, length: int) -> bytes:
    lines = (
        f"HTTP/1.1 {status}",
        "Content-Type: image/jpeg",
        f"Content-Length: {length}",
        "Connection: close",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
