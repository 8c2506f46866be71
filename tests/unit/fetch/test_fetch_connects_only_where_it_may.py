"""Fetching connects to nothing that the policy has not allowed, and refuses what is no picture."""

from __future__ import annotations

import socket
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from url_servers import (
    BODY,
    LOOPBACK_SPELLINGS,
    PUBLIC,
    Server,
    answer,
    names,
    opened,
    redirect,
    refusal,
    sends,
)

from florence2_sam2.server.inputs.fetch import fetch_image
from florence2_sam2.server.settings import Settings


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
