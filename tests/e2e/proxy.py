"""An nginx of a test's own with the configuration that is shipped, and lines on which one sees what it hands on."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc
from calls import logged

from bench.balance import nginx
from bench.balance.nginx import CALLER as CALLER
from bench.balance.nginx import KEY, TLS
from florence2_sam2.client import Segmenter
from florence2_sam2.server.launch.embedded import EmbeddedServer

ROOT = Path(__file__).resolve().parents[2]

BEARER = {"Authorization": f"Bearer {KEY}"}
WRONG_KEY = "0badc0de" * 4

GENERATE = "/v2/models/segment_http/generate"
STREAM = "/v2/models/segment_stream/generate_stream"

DIRECT = [("grpc.enable_http_proxy", 0)]  # past a proxy of the environment
HEAD_BYTES = 16 * 1024


def find_nginx() -> str:
    """The nginx of this machine, or the one that `scripts/environment.sh` has unpacked. Skips the test without one."""
    found = nginx.find()
    if found is not None:
        return found
    if os.environ.get("FLORENCE2_SAM2_NEEDS_NGINX"):
        pytest.fail("no nginx is installed")
    pytest.skip("no nginx is installed")


class Relay:
    """A line to a server. `heads`: what came first on each connection, at most HEAD_BYTES; `received`: all bytes."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._listener.getsockname())
        self.heads: list[bytearray] = []
        self.received = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        head = bytearray()
        self.heads.append(head)
        with contextlib.suppress(OSError), near, socket.create_connection(self._target) as far:
            threading.Thread(target=_copy, args=(far, near), daemon=True).start()
            while data := near.recv(2**18):
                self.received += len(data)
                head += data[: HEAD_BYTES - len(head)]
                far.sendall(data)
            far.shutdown(socket.SHUT_WR)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(2**18):
            target.sendall(data)
        target.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """The sentence of an error in Triton's form."""
        assert self.headers["content-type"] == "application/json"
        body = json.loads(self.body)
        assert list(body) == ["error"]
        return str(body["error"])


@dataclass(frozen=True)
class Proxy:
    """A running nginx."""

    folder: Path
    port: int

    @property
    def grpc_url(self) -> str:
        return f"grpcs://localhost:{self.port}"

    def segmenter(self, **options: Any) -> Segmenter:
        """A client that has the key and trusts the certificate."""
        given = {"api_key": KEY, "root_certificates": TLS / "ca.pem", "timeout": 60, **options}
        return Segmenter(self.grpc_url, **given)

    @contextmanager
    def triton(self) -> Iterator[tritonclient.grpc.InferenceServerClient]:
        """NVIDIA's client: it has more calls, and no key of its own."""
        client = tritonclient.grpc.InferenceServerClient(
            f"localhost:{self.port}", ssl=True, root_certificates=str(TLS / "ca.pem"), channel_args=DIRECT
        )
        try:
            yield client
        finally:
            client.close()

    def channel(self) -> grpc.Channel:
        credentials = grpc.ssl_channel_credentials((TLS / "ca.pem").read_bytes())
        return grpc.secure_channel(f"localhost:{self.port}", credentials, DIRECT)

    def connect(self, seconds: float = 60) -> HTTPSConnection:
        return HTTPSConnection("localhost", self.port, timeout=seconds, context=trusting())

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """One request on a connection of its own; `path` goes out as it is."""
        connection = self.connect()
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()

    def segment(self, headers: dict[str, str] = BEARER, **fields: Any) -> Answer:
        """One call over HTTP."""
        return self.ask("POST", GENERATE, json.dumps(fields).encode(), headers)

    @property
    def access_log(self) -> list[dict[str, Any]]:
        return logged(self.folder / "access.log")

    @property
    def logs(self) -> str:
        """All that nginx has written down."""
        return "".join(path.read_text("utf-8", "replace") for path in self.folder.glob("*.log"))


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(TLS / "ca.pem"))


@contextmanager
def running(folder: Path, over_http: Sequence[str], over_grpc: Sequence[str]) -> Iterator[Proxy]:
    """nginx with `deploy/nginx/florence2-sam2.conf` as it is, before servers at these addresses (host:port).

    The files that an operator edits are the shipped ones with what has to be edited there.
    """
    try:
        started = nginx.Nginx(find_nginx(), folder, nginx.Servers(over_http, over_grpc)).__enter__()
    except nginx.NginxFailed as error:
        pytest.fail(str(error), pytrace=False)
    with contextlib.closing(started):
        yield Proxy(folder, started.port)


@contextmanager
def before(server: EmbeddedServer, folder: Path) -> Iterator[tuple[Proxy, Relay, Relay]]:
    """nginx before a server, with the lines between them: HTTP, gRPC."""
    lines = Relay(server.http_address), Relay(server.grpc_address)
    try:
        with running(folder, [lines[0].address], [lines[1].address]) as proxy:
            yield proxy, *lines
    finally:
        for line in lines:
            line.close()
