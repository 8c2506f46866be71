"""Fetching a picture: small, suspicious HTTP/1.1 GET, with a limit on everything the other side decides."""

from __future__ import annotations

import functools
import http.client
import io
import queue
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import urljoin

from florence2_sam2 import __version__
from florence2_sam2.urls import policy
from florence2_sam2.urls.rules import DeadlineReached, FetchFailed, RefusedUrl, TooLarge, UrlError, UrlRules

_REDIRECTS = (301, 302, 303, 307, 308)
_BLOCK = 64 * 1024
_HEADERS = {
    "User-Agent": f"florence2-sam2/{__version__}",
    "Accept": "image/*",
    # Nothing to unpack, so nothing that grows while it is unpacked.
    "Accept-Encoding": "identity",
    "Connection": "close",
}


def fetch_url(
    url: str,
    rules: UrlRules,
    *,
    resolver: policy.Resolver = policy.resolve,
    deadline: float | None = None,
) -> bytes:
    """The bytes behind an http or https URL, as `policy.decide` allows.

    Blocks for at most `rules.total_seconds`, everything included; call it in a thread. What the bytes are is left to
    the caller; the server's word on their type counts only for a better message.

    Args:
        url: the caller's text.
        resolver: asked once for each host.
        deadline: the caller's own, in seconds of `time.monotonic`.

    Raises:
        UrlError: as `rules` says.
        DeadlineReached: the caller's deadline came first.
    """
    clock = _Clock(rules.total_seconds, deadline)
    try:
        return _fetch(url, rules, resolver, clock)
    except UrlError:
        raise
    except TimeoutError:
        if clock.is_callers:
            raise DeadlineReached from None
        seconds = f"{rules.total_seconds:g} s"
        raise FetchFailed(f"the server did not send the picture within {seconds}") from None
    except ssl.SSLCertVerificationError:
        raise FetchFailed("the server's certificate is not valid for its name") from None
    except ssl.SSLError:
        raise FetchFailed("the server does not speak TLS; is the URL an http:// one?") from None
    except (OSError, http.client.HTTPException, ValueError):
        raise FetchFailed("the server broke off, or does not speak HTTP") from None


class _Clock:
    """Time left until one end: that of the rules, or the caller's deadline, whichever comes first."""

    def __init__(self, seconds: float, deadline: float | None) -> None:
        own = time.monotonic() + seconds
        self.is_callers = deadline is not None and deadline < own
        self._end = min(own, deadline) if deadline is not None else own

    def left(self) -> float:
        """Seconds left, more than 0.

        Raises:
            TimeoutError: there are none.
        """
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds


def _fetch(url: str, rules: UrlRules, resolver: policy.Resolver, clock: _Clock) -> bytes:
    resolve_in_time = functools.partial(_resolve_in_time, resolver, clock)
    target = policy.decide(url, rules, resolve_in_time)
    for _ in range(rules.max_redirects + 1):
        with _connect(target, rules, clock) as sock:
            response = _get(target, _TimedSocket(sock, clock))
            location = response.getheader("Location")
            if response.status not in _REDIRECTS or not location:
                return _body(response, rules)
        try:
            target = policy.decide(urljoin(target.url, location), rules, resolve_in_time)
        except ValueError as error:
            reason = error if isinstance(error, RefusedUrl) else "is no valid URL"
            raise RefusedUrl(f"the server redirects to another URL: {reason}") from None
    raise FetchFailed(f"the server redirects more than {rules.max_redirects} times")


def _resolve_in_time(resolver: policy.Resolver, clock: _Clock, host: str, port: int) -> Sequence[str]:
    """Resolve in a thread of its own: the system's resolver takes no time limit. A late answer is thrown away."""
    answers: queue.SimpleQueue[Sequence[str] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(resolver(host, port))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=clock.left())
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _connect(target: policy.Target, rules: UrlRules, clock: _Clock) -> socket.socket:
    """A socket, with TLS for https, to one of the target's checked addresses; the name is not looked up again."""
    sock = _open_socket(target, rules, clock)
    if target.scheme == "http":
        return sock
    with sock:  # is detached when it is wrapped
        sock.settimeout(clock.left())  # for the handshake as a whole
        return _tls().wrap_socket(sock, server_hostname=target.host)


def _open_socket(target: policy.Target, rules: UrlRules, clock: _Clock) -> socket.socket:
    end = time.monotonic() + rules.connect_seconds
    for address in target.addresses:
        seconds = min(end - time.monotonic(), clock.left())
        if seconds <= 0:
            break
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(seconds)
            sock.connect((address, target.port))
        except OSError:
            sock.close()
            continue
        return sock
    clock.left()
    raise FetchFailed(f"cannot connect to {target.host} within {rules.connect_seconds:g} s")


@functools.cache
def _tls() -> ssl.SSLContext:
    """Certificates are checked against the system's authorities, or those that SSL_CERT_FILE names."""
    return ssl.create_default_context()


def _get(target: policy.Target, sock: _TimedSocket) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(target.host, target.port)
    if target.scheme == "https":
        connection.default_port = http.client.HTTPS_PORT  # leaves :443 out of the Host header
    connection.sock = sock
    connection.request("GET", target.path, headers=_HEADERS)
    return connection.getresponse()


class _TimedSocket:
    """What `http.client` needs of a socket, with one end for all that is sent and received.

    A socket's own timeout starts anew with each packet, so a byte a second would last for ever.
    """

    def __init__(self, sock: socket.socket, clock: _Clock) -> None:
        self._sock = sock
        self._clock = clock

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._clock.left())
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._sock, self._clock))

    def close(self) -> None:
        """Leaves the socket open: `http.client` closes it before the body is read."""


class _TimedReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, clock: _Clock) -> None:
        self._sock = sock
        self._clock = clock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(self._clock.left())
        return self._sock.recv_into(buffer)


def _body(response: http.client.HTTPResponse, rules: UrlRules) -> bytes:
    limit = rules.max_bytes
    if response.status != HTTPStatus.OK:
        raise FetchFailed(f"the server answered {_status(response.status)}")
    kind = response.headers.get_content_type()
    if kind in ("text/html", "application/xhtml+xml"):
        raise FetchFailed("is the address of a web page; use the address of the picture itself")
    if response.getheader("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise FetchFailed("the server sent the picture compressed although asked not to")
    if response.length is not None and response.length > limit:
        raise TooLarge(limit)
    body = bytearray()
    while block := response.read(_BLOCK):
        body += block
        if len(body) > limit:
            raise TooLarge(limit)
    if response.length:
        raise FetchFailed("the server broke off before the picture was complete")
    if not body:
        raise FetchFailed("the server sent an empty answer")
    return bytes(body)


def _status(code: int) -> str:
    """A status in the words of the standard: the server's own words are not handed on."""
    try:
        return f"{code} {HTTPStatus(code).phrase}"
    except ValueError:
        return str(code)
