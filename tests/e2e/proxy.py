"""An nginx of a test's own with the configuration that is shipped, and lines on which one sees what it hands on."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
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
from calls import until

from florence2_sam2.client import Segmenter
from florence2_sam2.server.launch.checks import free_port
from florence2_sam2.server.launch.embedded import EmbeddedServer

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy" / "nginx"
TLS = ROOT / "tests" / "data" / "tls"  # for `localhost`

KEY, CALLER = "5e1f0c2a9b7d4e6f8a1b3c5d7e9f0a2b", "the tests"
BEARER = {"Authorization": f"Bearer {KEY}"}
WRONG_KEY = "0badc0de" * 4

GENERATE = "/v2/models/segment_http/generate"
STREAM = "/v2/models/segment_stream/generate_stream"

DIRECT = [("grpc.enable_http_proxy", 0)]  # past a proxy of the environment
HEAD_BYTES = 16 * 1024

MAIN = """
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log error;
{user}
events {{ worker_connections 512; }}
http {{
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include {configuration};
}}
"""


def find_nginx() -> str:
    """The nginx of this machine, or the one that `scripts/environment.sh` has unpacked. Skips the test without one."""
    folders = [
        os.environ.get("PATH", os.defpath),
        "/usr/sbin",
        "/usr/local/sbin",
        f"{sys.prefix}/nginx/usr/sbin",
    ]
    found = shutil.which("nginx", path=os.pathsep.join(folders))
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
        text = (self.folder / "access.log").read_text("utf-8")
        return [json.loads(line) for line in text.splitlines()]

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
    binary, port = find_nginx(), free_port("127.0.0.1")
    own = folder / "florence2-sam2"
    own.mkdir(parents=True)
    changes = {
        "listen 443 ssl http2;": f"listen 127.0.0.1:{port} ssl http2;",
        "listen [::]:443 ssl http2;": "",
        "segment.example.org;": "localhost;",
        "/etc/ssl/certs/segment.example.org.pem": str(TLS / "server.pem"),
        "/etc/ssl/private/segment.example.org.key": str(TLS / "server.key"),
        "/var/log/nginx/florence2-sam2.log": str(folder / "access.log"),
        "/var/log/nginx/florence2-sam2.error.log": str(folder / "error.log"),
    }
    (own / "site.conf").write_text(_edited("site.conf", changes))
    servers = {
        f"server 127.0.0.1:{number} fail_timeout=5s;": "\n".join(
            f"server {address} fail_timeout=5s;" for address in addresses
        )
        for number, addresses in ((8000, over_http), (8001, over_grpc))
    }
    (own / "upstreams.conf").write_text(_edited("upstreams.conf", servers))
    keys = _edited("api-keys.conf.example", {}) + f'"{KEY}" "{CALLER}";\n'
    (own / "api-keys.conf").write_text(keys)
    main = folder / "nginx.conf"
    # As root it would work as another user, who has no business in the tests' folders.
    user = "user root root;" if os.geteuid() == 0 else ""
    main.write_text(MAIN.format(user=user, configuration=DEPLOY / "florence2-sam2.conf"))
    with _process([binary, "-p", str(folder), "-c", str(main), "-e", str(folder / "error.log")], port):
        yield Proxy(folder, port)


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


def _edited(name: str, changes: dict[str, str]) -> str:
    """A shipped file with these places changed, each of which is in it."""
    text = (DEPLOY / "florence2-sam2" / name).read_text("utf-8")
    for old, new in changes.items():
        assert len(re.findall(rf"^[^#\n]*{re.escape(old)}", text, re.MULTILINE)) == 1, f"{name}: {old}"
        text = text.replace(old, new)
    return text


@contextmanager
def _process(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        listening = until(lambda: process.poll() is not None or _listens(port), 10)
        if process.poll() is not None or not listening:
            process.kill()
            pytest.fail(f"nginx does not start: {process.communicate()[0]}", pytrace=False)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        finally:
            process.kill()
            process.communicate()


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
