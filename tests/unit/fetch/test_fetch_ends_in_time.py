"""Fetching ends within its limits of bytes and of time, whatever the other side does."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from url_servers import BODY, PUBLIC, Handler, Server, answer, opened, redirect, refusal, sends

from florence2_sam2.server.errors import DeadlinePassed
from florence2_sam2.server.inputs.fetch import fetch_image
from florence2_sam2.server.settings import Settings


def endless_body(connection: socket.socket, _: bytes) -> None:
    connection.sendall(answer(b"", Content_Length=""))
    while True:
        connection.sendall(bytes(65_536))


def endless_chunks(connection: socket.socket, _: bytes) -> None:
    connection.sendall(answer(b"", Content_Length="", Transfer_Encoding="chunked"))
    while True:
        connection.sendall(b"10000\r\n" + bytes(65_536) + b"\r\n")


@pytest.mark.parametrize(
    "handle", [endless_body, endless_chunks, sends(answer(b"", Content_Length="1000001"))]
)
def test_the_byte_limit_holds(handle: Handler, serve: Callable[..., Server]) -> None:
    server = serve(handle)
    start = time.monotonic()
    assert "more than the 1000000 bytes" in refusal(server.url(), opened(server, max_image_bytes=1_000_000))
    assert time.monotonic() - start < 5


def dribble(data: bytes, seconds: float) -> Handler:
    def handle(connection: socket.socket, _: bytes) -> None:
        for byte in data:
            connection.sendall(bytes([byte]))
            time.sleep(seconds)

    return handle


def endless_headers(connection: socket.socket, _: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X-A: b\r\n")
        time.sleep(0.05)


def endless_continues(connection: socket.socket, _: bytes) -> None:
    while True:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.01)


def endless_trailers(connection: socket.socket, _: bytes) -> None:
    connection.sendall(answer(b"1\r\na\r\n0\r\n", Content_Length="", Transfer_Encoding="chunked"))
    while True:
        connection.sendall(b"X-A: b\r\n")
        time.sleep(0.01)


def slow_redirects(connection: socket.socket, _: bytes) -> None:
    time.sleep(0.4)
    connection.sendall(redirect("/a.png"))


def silence(connection: socket.socket, _: bytes) -> None:
    while connection.recv(4096):
        pass


SLOW: dict[str, tuple[Handler, str]] = {
    "silence": (silence, "http"),
    "a byte at a time": (dribble(answer(), 0.1), "http"),
    "a body a byte at a time": (
        lambda connection, request: (
            connection.sendall(answer(b"")[:-2]),
            dribble(BODY, 0.05)(connection, request),
        )[1],
        "http",
    ),
    "endless continues": (endless_continues, "http"),
    "endless trailers": (endless_trailers, "http"),
    "slow redirects": (slow_redirects, "http"),
    "a silent handshake": (silence, "https"),
    "a handshake a byte at a time": (dribble(b"\x16\x03\x03\x40\x00" + bytes(16_384), 0.05), "https"),
}


def seconds_until_refused(server: Server, scheme: str, settings: Settings) -> float:
    start = time.monotonic()
    message = refusal(f"{scheme}://127.0.0.1:{server.port}/", settings)
    assert "did not send the picture within" in message
    return time.monotonic() - start


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_server_is_left_in_time(name: str, serve: Callable[..., Server]) -> None:
    handle, scheme = SLOW[name]
    server = serve(handle, reads_request=scheme == "http")
    seconds = seconds_until_refused(
        server, scheme, opened(server, url_total_seconds=0.5, url_max_redirects=9)
    )
    assert 0.4 < seconds < 1.5


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in SLOW if name != "slow redirects"])
def test_a_slow_server_is_left_in_ten_seconds(name: str, serve: Callable[..., Server]) -> None:
    handle, scheme = SLOW[name]
    server = serve(handle, reads_request=scheme == "http")
    assert 9 < seconds_until_refused(server, scheme, opened(server)) < 11


def test_endless_headers_end(serve: Callable[..., Server]) -> None:
    server = serve(endless_headers)
    start = time.monotonic()
    refusal(server.url(), opened(server, url_total_seconds=0.5))
    assert time.monotonic() - start < 1.5


def test_a_slow_resolver_is_left_in_time(connects: list[Any]) -> None:
    release = threading.Event()

    def resolver(host: str, port: int) -> Sequence[str]:
        release.wait(10)
        return [PUBLIC]

    start = time.monotonic()
    message = refusal("http://public.test/", Settings(url_total_seconds=0.3), resolver=resolver)
    release.set()
    assert "within 0.3 s" in message
    assert time.monotonic() - start < 1.5
    assert connects == []


def test_connecting_has_a_limit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of all addresses together; a silent host is played by the connect call."""
    waited: list[float] = []

    def connect(sock: socket.socket, address: Any) -> None:
        waited.append(sock.gettimeout() or 0)
        time.sleep(0.2)
        raise TimeoutError

    monkeypatch.setattr(socket.socket, "connect", connect)
    settings = Settings(url_connect_seconds=0.3)
    message = refusal("http://public.test/", settings, resolver=lambda *_: [PUBLIC, "8.8.8.8", "1.1.1.1"])
    assert "cannot connect to public.test within 0.3 s" in message
    assert len(waited) == 2
    assert waited[0] <= 0.3
    assert waited[1] <= 0.1


def test_a_closed_port_is_no_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert "cannot connect" in refusal(
        f"http://127.0.0.1:{port}/", Settings(url_allow=(f"127.0.0.1:{port}",))
    )


def test_the_callers_deadline_is_a_deadline(serve: Callable[..., Server]) -> None:
    server = serve(silence)
    start = time.monotonic()
    with pytest.raises(DeadlinePassed):
        fetch_image(server.url(), opened(server), deadline=start + 0.2)
    assert time.monotonic() - start < 1.5
