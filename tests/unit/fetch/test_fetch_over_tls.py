"""https is fetched with the host's own name and a certificate that fits it."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from url_servers import BODY, Server, answer, opened, refusal, sends

from florence2_sam2.server.inputs.fetch import fetch_image
from florence2_sam2.server.settings import Settings
from florence2_sam2.urls import fetch


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of pictures.test, with its key in the same file."""
    folder = tmp_path_factory.mktemp("tls")
    key, path = folder / "key.pem", folder / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    extension = ["-subj", "/CN=pictures.test", "-addext", "subjectAltName=DNS:pictures.test"]
    subprocess.run(
        [*command.split(), *extension, "-keyout", str(key), "-out", str(path)],
        check=True,
        capture_output=True,
    )
    path.write_bytes(path.read_bytes() + key.read_bytes())
    return path


@pytest.fixture
def tls_server(certificate: Path, serve: Callable[..., Server]) -> Server:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def handle(connection: socket.socket, _: bytes) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            server.requests.append(secure.recv(4096))
            secure.sendall(answer())

    server = serve(handle, reads_request=False)
    return server


def tls_settings(server: Server) -> Settings:
    return Settings(url_allow=(f"pictures.test:{server.port}", f"other.test:{server.port}"))


def test_https_is_fetched_with_the_hosts_name(
    tls_server: Server, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    fetch._tls.cache_clear()
    url = f"https://pictures.test:{tls_server.port}/a.png"
    assert fetch_image(url, tls_settings(tls_server), resolver=lambda *_: ["127.0.0.1"]) == BODY
    assert f"Host: pictures.test:{tls_server.port}\r\n".encode() in tls_server.requests[-1]
    other = url.replace("pictures.test", "other.test")
    assert "certificate" in refusal(other, tls_settings(tls_server), resolver=lambda *_: ["127.0.0.1"])
    fetch._tls.cache_clear()


def test_a_certificate_of_nobody_is_refused(tls_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    fetch._tls.cache_clear()
    url = f"https://pictures.test:{tls_server.port}/a.png"
    assert "certificate" in refusal(url, tls_settings(tls_server), resolver=lambda *_: ["127.0.0.1"])


def test_https_to_a_server_without_tls_is_refused(serve: Callable[..., Server]) -> None:
    server = serve(sends(b"HTTP/1.1 400 Bad Request\r\n\r\n"), reads_request=False)
    url = server.url().replace("http:", "https:")
    assert "does not speak TLS" in refusal(url, replace(opened(server), url_total_seconds=5.0))
