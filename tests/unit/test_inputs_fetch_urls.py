"""Fetching connects to nothing that the policy has not allowed, and ends in time whatever the other side does.

All servers here are on loopback and opened by the allow-list. Every connection to anything else is stopped in the
`connect` call itself and counted, so no packet leaves the machine even when the policy is wrong.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from florence2_sam2.server.errors import DeadlinePassed, InvalidRequest
from florence2_sam2.server.inputs import fetch
from florence2_sam2.server.inputs.fetch import fetch_image
from florence2_sam2.server.settings import Settings

PUBLIC = "93.184.216.34"
BODY = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
Handler = Callable[[socket.socket, bytes], None]


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
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, path: str = "/a.png") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def close(self) -> None:
        self.stopped.set()
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


def test_a_picture_is_fetched(serve: Callable[..., Server]) -> None:
    server = serve(sends(answer()))
    assert fetch_image(server.url("/a%20b.png?x=1#y"), opened(server)) == BODY
    request = server.requests[0]
    assert request.startswith(b"GET /a%20b.png?x=1 HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{server.port}\r\n".encode() in request
    assert b"Accept-Encoding: identity\r\n" in request


def test_chunked_and_unmeasured_bodies_are_fetched(serve: Callable[..., Server]) -> None:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:100], BODY[100:])) + b"0\r\n\r\n"
    chunked = serve(sends(answer(chunks, Content_Length="", Transfer_Encoding="chunked")))
    unmeasured = serve(sends(answer(Content_Length="")))
    settings = opened(chunked, unmeasured)
    assert fetch_image(chunked.url(), settings) == BODY
    assert fetch_image(unmeasured.url(), settings) == BODY


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
    return {"public.test": [PUBLIC], "mixed.test": [PUBLIC, "127.0.0.1"]}.get(host, ["127.0.0.1"])


@pytest.mark.parametrize("host", LOOPBACK_SPELLINGS)
def test_a_refused_host_sees_no_connection(
    host: str, serve: Callable[..., Server], connects: list[Any]
) -> None:
    server = serve(sends(answer()))
    settings = Settings(url_ports=(80, server.port))
    refusal(f"http://{host}:{server.port}/", settings, resolver=names)
    refusal(f"http://{host}/", settings, resolver=names)
    assert connects == []
    assert server.connections == 0


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://public.test/", "gopher://public.test/", "http://public.test:22/"]
)
def test_other_schemes_and_ports_see_no_connection(url: str, connects: list[Any]) -> None:
    refusal(url, Settings(), resolver=names)
    assert connects == []


def test_the_connection_goes_to_the_address_that_was_checked(connects: list[Any]) -> None:
    """A name that points elsewhere the second time is not asked a second time."""
    answers = iter([[PUBLIC], ["127.0.0.1"], ["127.0.0.1"]])
    assert "cannot connect" in refusal(
        "http://rebinding.test/", Settings(), resolver=lambda *_: next(answers)
    )
    assert connects == [(PUBLIC, 80)]
    assert next(answers) == ["127.0.0.1"]


def test_the_next_address_is_tried(serve: Callable[..., Server], connects: list[Any]) -> None:
    server = serve(sends(answer()))
    settings = Settings(url_allow=(f"two.test:{server.port}",))
    resolver = lambda *_: ["192.0.2.1", "127.0.0.1"]  # noqa: E731
    assert fetch_image(f"http://two.test:{server.port}/", settings, resolver=resolver) == BODY
    assert connects == [("192.0.2.1", server.port), ("127.0.0.1", server.port)]
    assert f"Host: two.test:{server.port}\r\n".encode() in server.requests[0]


def test_redirects_are_followed_three_times(serve: Callable[..., Server]) -> None:
    def hop(connection: socket.socket, request: bytes) -> None:
        step = int(request.split(b" ")[1][1:])
        connection.sendall(answer() if step == 0 else redirect(f"/{step - 1}"))

    server = serve(hop)
    assert fetch_image(server.url("/3"), opened(server)) == BODY
    assert server.connections == 4
    assert "more than 3 times" in refusal(server.url("/4"), opened(server))
    assert server.connections == 8
    assert "more than 0 times" in refusal(server.url("/1"), opened(server, url_max_redirects=0))


def test_a_redirect_loop_ends(serve: Callable[..., Server]) -> None:
    server = serve(sends(redirect("/a.png")))
    assert "redirects more than 3 times" in refusal(server.url(), opened(server))
    assert server.connections == 4


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{port}/",
        "http://localhost:{port}/",
        "//127.0.0.1:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://2130706433:{port}/",
        "http://169.254.169.254/",
        "http://user@127.0.0.1:{port}/",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "http://[::",
        "http://a b/",
    ],
)
def test_redirects_are_checked_anew(location: str, serve: Callable[..., Server], connects: list[Any]) -> None:
    inside = serve(sends(answer()))
    server = serve(sends(redirect(location.format(port=inside.port))))
    message = refusal(server.url(), opened(server, url_ports=(80, inside.port)), resolver=names)
    assert "redirects to another URL" in message
    assert inside.connections == 0
    assert connects == [("127.0.0.1", server.port)]


def test_no_proxy_of_the_environment_is_used(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, server = serve(sends(answer(b"proxy"))), serve(sends(answer()))
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url("/"))
    assert fetch_image(server.url(), opened(server)) == BODY
    assert proxy.connections == 0


def test_urls_can_be_switched_off(connects: list[Any]) -> None:
    assert "fetches no URLs" in refusal("http://public.test/", Settings(urls_enabled=False), resolver=names)
    assert connects == []
    assert fetch_image("data:image/png;base64,AAAA", Settings(urls_enabled=False)) == b"\0\0\0"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (answer(b"", "404 You will not see this"), "404 Not Found"),
        (answer(b"", "403 Forbidden"), "403 Forbidden"),
        (answer(b"", "500 Oops"), "500 Internal Server Error"),
        (answer(b"", "799 Oops"), "answered 799"),
        (answer(status="206 Partial Content"), "206 Partial Content"),
        (answer(b"", "302 Found"), "302 Found"),
        (answer(b"<html>", Content_Type="text/html; charset=utf-8"), "web page"),
        (answer(zlib.compress(bytes(10**7)), Content_Encoding="deflate"), "compressed although asked not to"),
        (answer(b"\x1f\x8b" + bytes(100), Content_Encoding="gzip"), "compressed although asked not to"),
        (answer(b""), "empty answer"),
        (answer(Content_Length=str(len(BODY) + 1)), "before the picture was complete"),
        (answer(BODY[:50], Content_Length="", Transfer_Encoding="chunked"), "broke off"),
        (answer(b"ffffffff\r\n" + BODY, Content_Length="", Transfer_Encoding="chunked"), "broke off"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
        (b"", "broke off"),
        (b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 200 + b"\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nX-A: " + b"b" * 10**6 + b"\r\n\r\n", "does not speak HTTP"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_reason(
    data: bytes, words: str, serve: Callable[..., Server]
) -> None:
    server = serve(sends(data))
    message = refusal(server.url(), opened(server))
    assert words in message
    assert "You will not" not in message


def test_a_wrong_content_length_cuts_the_picture_short(serve: Callable[..., Server]) -> None:
    server = serve(sends(answer(Content_Length="100")))
    assert fetch_image(server.url(), opened(server)) == BODY[:100]


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
