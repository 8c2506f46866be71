"""Lines: what a model says to the model that called it, before it answers.

A call between models has one answer, and Triton tells the called model nothing about its caller's caller. So a caller
opens a line, and hands its address over as a request parameter. The called model connects, and sees by the line's end
that nobody waits for its answer any more. While the caller listens, from the start or from a later moment on, it says
events as it works.

Sockets are Linux's abstract ones, which leave no files behind. Their names are visible to other users of the
machine, so both ends talk to processes of their own user only.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

# Request parameter of a call with a line: its address.
PARAMETER = "florence2_sam2_line"
# And another one: the caller listens from the start.
LISTENS = "florence2_sam2_listens"

Event = dict[str, Any]

_ADDRESS = re.compile(r"([0-9a-f]{32})/([0-9a-f]{32})")
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_TAKEN, _LISTENS = b"taken", b"listens"  # the caller's only words
# How long a caller that has its answer waits for the line's end. The other side ends it before it answers, so that
# this only matters if it has died.
END_SECONDS = 2.0


def _path(name: str) -> str:
    return f"\0florence2-sam2-{name}"


def _is_ours(transport: asyncio.BaseTransport) -> bool:
    """Whether the process at the other end has our user."""
    end = transport.get_extra_info("socket")
    raw = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(raw)[1] == os.geteuid())


class _Lines(asyncio.Protocol):
    """Cuts what comes into lines."""

    def __init__(self) -> None:
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if _is_ours(transport):
            self._transport = transport
        else:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self.line_received(line)

    def line_received(self, line: bytes) -> None:
        """One line, without its end."""


@dataclass(eq=False)
class OpenLine:
    """A line at the caller's side.

    Attributes:
        address: what the other side connects to.
        ended: the other side has hung up, or never took it up.
        listens: whether anything need be said.
    """

    address: str
    heard: Callable[[Event], None]
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    listens: bool = False
    transport: asyncio.Transport | None = None

    def __post_init__(self) -> None:
        self.ended.set()

    def listen(self) -> None:
        """Want to hear, from now on."""
        if not self.listens:
            self.listens = True
            if self.transport is not None and not self.ended.is_set():
                self.transport.write(_LISTENS + b"\n")

    def taken(self, transport: asyncio.Transport) -> None:
        """The other side has connected."""
        self.transport = transport
        self.ended.clear()
        words = [_TAKEN, _LISTENS] if self.listens else [_TAKEN]
        transport.write(b"".join(word + b"\n" for word in words))


class _Listener(_Lines):
    """One connection at the caller's side. Its first line says which of the open lines it is."""

    def __init__(self, open_lines: dict[str, OpenLine]) -> None:
        super().__init__()
        self._open = open_lines
        self._line: OpenLine | None = None

    def line_received(self, line: bytes) -> None:
        assert self._transport is not None
        if self._line is not None:
            self._line.heard(json.loads(line))
            return
        self._line = self._open.get(line.decode("ascii", "replace"))
        if self._line is None:  # the caller has gone meanwhile
            self._transport.abort()
        else:
            self._line.taken(self._transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._line is not None:
            self._line.ended.set()


class Exchange:
    """The lines that this process listens to, through one socket. Belongs to one event loop."""

    def __init__(self) -> None:
        self._name = secrets.token_hex(16)
        self._open: dict[str, OpenLine] = {}
        self._listening: asyncio.Task[asyncio.Server] | None = None

    @asynccontextmanager
    async def line(self, heard: Callable[[Event], None]) -> AsyncIterator[OpenLine]:
        """An open line. `heard` gets what is said, in order. Leaving the block hangs up."""
        loop = asyncio.get_running_loop()
        if self._listening is None:
            server = loop.create_unix_server(lambda: _Listener(self._open), _path(self._name))
            self._listening = loop.create_task(server)
        await asyncio.shield(self._listening)
        token = secrets.token_hex(16)
        line = OpenLine(f"{self._name}/{token}", heard)
        self._open[token] = line
        try:
            yield line
        finally:
            del self._open[token]
            if line.transport is not None:
                line.transport.abort()


_exchanges: WeakKeyDictionary[asyncio.AbstractEventLoop, Exchange] = WeakKeyDictionary()


def exchange() -> Exchange:
    """That of the running event loop."""
    return _exchanges.setdefault(asyncio.get_running_loop(), Exchange())


class Line(_Lines):
    """A line at the called model's side. `listened`: whether the caller wants to hear; else nothing need be said."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self._token = token
        self._taken = asyncio.Event()  # or refused
        self._hung_up = False
        self.listened = False

    @classmethod
    async def connect(cls, address: str) -> Line | None:
        """The line of that address; None if nobody listens there, or it is no address."""
        parts = _ADDRESS.fullmatch(address)
        if parts is None:
            return None
        name, token = parts.groups()
        try:
            _, line = await asyncio.get_running_loop().create_unix_connection(lambda: cls(token), _path(name))
        except OSError:
            return None
        return line

    async def taken(self) -> None:
        """Until the caller has taken it up or refused it: who answers before that is not heard."""
        await self._taken.wait()

    @property
    def hung_up(self) -> bool:
        """Whether the caller no longer listens: it has gone, or died."""
        return self._hung_up

    def say(self, event: Event) -> None:
        """Tell the caller; on the event loop. What nobody hears is dropped."""
        if self._transport is not None and not self.hung_up:
            self._transport.write(json.dumps(event, ensure_ascii=False).encode() + b"\n")

    def end(self) -> None:
        """Hang up after everything has been said."""
        if self._transport is not None and not self.hung_up:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._transport is not None:
            self._transport.write(self._token.encode() + b"\n")

    def line_received(self, line: bytes) -> None:
        self._taken.set()
        self.listened = self.listened or line == _LISTENS

    def connection_lost(self, error: Exception | None) -> None:
        self._hung_up = True
        self._taken.set()
