"""Lines: what a model says to the model that called it, before it answers.

A call between models has one answer, and Triton tells the called model nothing about its caller's caller. So a caller
opens a line: it listens, and hands the address over as a request parameter. The called model connects, says events
as it works, and sees by the line's end that nobody waits for its answer any more.

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

Event = dict[str, Any]

_ADDRESS = re.compile(r"([0-9a-f]{32})/([0-9a-f]{32})")
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_TAKEN = b"taken\n"  # the caller's only word
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
class _Open:
    """A line that somebody listens to. `ended`: the other side has hung up, or never took it up."""

    heard: Callable[[Event], None]
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    transport: asyncio.Transport | None = None

    def __post_init__(self) -> None:
        self.ended.set()


class _Listener(_Lines):
    """One connection at the caller's side. Its first line says which of the open lines it is."""

    def __init__(self, open_lines: dict[str, _Open]) -> None:
        super().__init__()
        self._open = open_lines
        self._line: _Open | None = None

    def line_received(self, line: bytes) -> None:
        assert self._transport is not None
        if self._line is not None:
            self._line.heard(json.loads(line))
            return
        self._line = self._open.get(line.decode("ascii", "replace"))
        if self._line is None:  # the caller has gone meanwhile
            self._transport.abort()
        else:
            self._line.transport = self._transport
            self._line.ended.clear()
            self._transport.write(_TAKEN)

    def connection_lost(self, error: Exception | None) -> None:
        if self._line is not None:
            self._line.ended.set()


class Exchange:
    """The lines that this process listens to, through one socket. Belongs to one event loop."""

    def __init__(self) -> None:
        self._name = secrets.token_hex(16)
        self._open: dict[str, _Open] = {}
        self._listening: asyncio.Task[asyncio.Server] | None = None

    @asynccontextmanager
    async def line(self, heard: Callable[[Event], None]) -> AsyncIterator[tuple[str, asyncio.Event]]:
        """An open line: its address, and an event that is set unless the other side is connected.

        `heard` gets what is said, in order. Leaving the block hangs up.
        """
        loop = asyncio.get_running_loop()
        if self._listening is None:
            server = loop.create_unix_server(lambda: _Listener(self._open), _path(self._name))
            self._listening = loop.create_task(server)
        await asyncio.shield(self._listening)
        token, line = secrets.token_hex(16), _Open(heard)
        self._open[token] = line
        try:
            yield f"{self._name}/{token}", line.ended
        finally:
            del self._open[token]
            if line.transport is not None:
                line.transport.abort()


_exchanges: WeakKeyDictionary[asyncio.AbstractEventLoop, Exchange] = WeakKeyDictionary()


def exchange() -> Exchange:
    """That of the running event loop."""
    return _exchanges.setdefault(asyncio.get_running_loop(), Exchange())


class Line(_Lines):
    """A line at the called model's side."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self._token = token
        self._taken = asyncio.Event()  # or refused
        self._hung_up = False

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

    def data_received(self, data: bytes) -> None:
        self._taken.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._hung_up = True
        self._taken.set()
