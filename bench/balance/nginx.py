"""An nginx with the shipped configuration (`deploy/nginx`), before servers that change while it runs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.fullsize.serving import descendants
from bench.speed.machine import ROOT
from florence2_sam2.client import Segmenter
from florence2_sam2.server.launch.checks import free_port

DEPLOY = ROOT / "deploy" / "nginx"
TLS = ROOT / "tests" / "data" / "tls"  # for `localhost`
KEY, CALLER = "5e1f0c2a9b7d4e6f8a1b3c5d7e9f0a2b", "the tests"
MODELS_HEADER = "x-florence2-sam2-models"
START_SECONDS = 10.0

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


class NginxFailed(Exception):
    """It does not start, or does not take the new configuration; says what it has said."""


def find() -> str | None:
    """The nginx of this machine, or the one that `scripts/environment.sh` has unpacked."""
    folders = [
        os.environ.get("PATH", os.defpath),
        "/usr/sbin",
        "/usr/local/sbin",
        f"{sys.prefix}/nginx/usr/sbin",
    ]
    return shutil.which("nginx", path=os.pathsep.join(folders))


@dataclass(frozen=True)
class Servers:
    """The addresses (host:port) of servers with the same models."""

    http: Sequence[str]
    grpc: Sequence[str]


class Nginx:
    """Runs within the context.

    Args:
        folder: an empty one, for its files and logs.
        servers: for callers who name no models.
        others: for those who do (`x-florence2-sam2-models`), by that name.
        share: of the calls that name no models, so many percent go to the first of `others`.
    """

    def __init__(
        self,
        binary: str,
        folder: Path,
        servers: Servers,
        others: Mapping[str, Servers] | None = None,
        share: int = 0,
    ) -> None:
        self._binary, self.folder = binary, folder
        self.port = free_port("127.0.0.1")
        own = folder / "florence2-sam2"
        own.mkdir(parents=True)
        changes = {
            "listen 443 ssl http2;": f"listen 127.0.0.1:{self.port} ssl http2;",
            "listen [::]:443 ssl http2;": "",
            "segment.example.org;": "localhost;",
            "/etc/ssl/certs/segment.example.org.pem": str(TLS / "server.pem"),
            "/etc/ssl/private/segment.example.org.key": str(TLS / "server.key"),
            "/var/log/nginx/florence2-sam2.log": str(folder / "access.log"),
            "/var/log/nginx/florence2-sam2.error.log": str(folder / "error.log"),
        }
        (own / "site.conf").write_text(_shipped("site.conf", changes))
        (own / "api-keys.conf").write_text(_shipped("api-keys.conf.example", {}) + f'"{KEY}" "{CALLER}";\n')
        # As root it would work as another user, who has no business in this folder.
        user = "user root root;" if os.geteuid() == 0 else ""
        configuration = DEPLOY / "florence2-sam2.conf"
        (folder / "nginx.conf").write_text(MAIN.format(user=user, configuration=configuration))
        self._write(servers, others or {}, share)

    def __enter__(self) -> Self:
        command = self._command()
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        end = time.monotonic() + START_SECONDS
        while self._process.poll() is None and not self._listens():
            if time.monotonic() > end:
                break
            time.sleep(0.05)
        if self._process.poll() is not None or not self._listens():
            self._process.kill()
            raise NginxFailed(f"nginx does not start: {self._process.communicate()[0]}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.communicate()

    def reload(self, servers: Servers, others: Mapping[str, Servers] | None = None, share: int = 0) -> None:
        """What `nginx -t && nginx -s reload` does with other servers: calls under way go on.

        Raises:
            NginxFailed: the configuration is wrong, or nothing has changed in time.
        """
        self._write(servers, others or {}, share)
        tested = subprocess.run(
            [*self._command(), "-t"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if tested.returncode:
            raise NginxFailed(f"nginx takes no such configuration: {tested.stdout}")
        before = set(descendants(self._process.pid))
        self._process.send_signal(signal.SIGHUP)
        end = time.monotonic() + START_SECONDS
        while not set(descendants(self._process.pid)) - before:
            if time.monotonic() > end:
                raise NginxFailed(f"nginx has not reloaded: {self.logs}")
            time.sleep(0.02)
        time.sleep(0.1)  # the old worker is told so just after the new one has been started

    @property
    def grpc_url(self) -> str:
        return f"grpcs://localhost:{self.port}"

    def segmenter(self, models: str | None = None, **options: object) -> Segmenter:
        """A client that has the key, trusts the certificate, and may name its models."""
        headers = {} if models is None else {MODELS_HEADER: models}
        given = {"api_key": KEY, "root_certificates": TLS / "ca.pem", "headers": headers, **options}
        return Segmenter(self.grpc_url, **given)  # type: ignore[arg-type]

    @property
    def logs(self) -> str:
        """All that nginx has written down."""
        return "".join(path.read_text("utf-8", "replace") for path in self.folder.glob("*.log"))

    def _command(self) -> list[str]:
        main, log = self.folder / "nginx.conf", self.folder / "error.log"
        return [self._binary, "-p", str(self.folder), "-c", str(main), "-e", str(log)]

    def _write(self, servers: Servers, others: Mapping[str, Servers], share: int) -> None:
        """The files in which an operator names servers: the shipped ones, with what has to be edited there."""
        text = _upstreams(servers)
        for name, group in others.items():
            text += re.sub(r"\b(florence2_sam2_(?:http|grpc))\b", rf"\1_{name}", _upstreams(group))
        own = self.folder / "florence2-sam2"
        (own / "upstreams.conf").write_text(text)
        rows = "\n".join(f'    "{name}" _{name};' for name in others)
        changes = {'"" "";': f'"" "";\n{rows}'}
        split = ""
        if share:
            changes = {'"" "";': f'"" $florence2_sam2_share;\n{rows}'}
            split = f'split_clients $request_id $florence2_sam2_share {{ {share}% _{next(iter(others))}; * ""; }}\n'
        (own / "models.conf").write_text(split + _shipped("models.conf", changes))

    def _listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0


def _upstreams(servers: Servers) -> str:
    changes = {
        f"server 127.0.0.1:{number} fail_timeout=5s;": "\n".join(
            f"server {address} fail_timeout=5s;" for address in addresses
        )
        for number, addresses in ((8000, servers.http), (8001, servers.grpc))
    }
    return _shipped("upstreams.conf", changes)


def _shipped(name: str, changes: Mapping[str, str]) -> str:
    """A shipped file with these places changed, each of which is in it once, outside of comments."""
    text = (DEPLOY / "florence2-sam2" / name).read_text("utf-8")
    for old, new in changes.items():
        assert len(re.findall(rf"^[^#\n]*{re.escape(old)}", text, re.MULTILINE)) == 1, f"{name}: {old}"
        text = text.replace(old, new)
    return text
