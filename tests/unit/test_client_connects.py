"""Addresses, large messages, waiting for a server, and coming back to a restarted one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from kserve_peer import ANSWER, serving

from florence2_sam2.client import AsyncSegmenter, CannotConnect, DeadlineExceeded, Segmenter
from florence2_sam2.client.connection import parse_address


@pytest.mark.parametrize(
    ("url", "target", "tls"),
    [
        ("grpc://host:8001", "host:8001", False),
        ("grpc://host", "host:8001", False),
        ("host:9001", "host:9001", False),
        ("host", "host:8001", False),
        (" 10.0.0.1:8001/ ", "10.0.0.1:8001", False),
        ("grpc://[::1]:8001", "[::1]:8001", False),
        ("grpcs://segment.example.org:443", "segment.example.org:443", True),
    ],
)
def test_addresses(url: str, target: str, tls: bool) -> None:
    assert (parse_address(url).target, parse_address(url).tls) == (target, tls)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://host:8000", "speaks gRPC, not http; write grpc://host:8001"),
        ("", "no server address"),
        ("grpc://", "no server address"),
        ("host:port", "no server address"),
        ("grpc://host:8001/v2/models", "no server address"),
        ("grpc://user@host", "no server address"),
        ("::1", "no server address"),
        ("host:0", "no port 0"),
        ("host:70000", "no port 70000"),
    ],
)
def test_what_is_no_address(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Segmenter(url)


def test_messages_over_grpcs_default_limit_pass_both_ways() -> None:
    large = {**ANSWER, "caption": "x" * 6_000_000}
    with serving(lambda _: (large, b"")) as peer, Segmenter(peer.address) as segmenter:
        assert len(segmenter.segment(b"x" * 6_000_000).caption or "") == 6_000_000


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_on_this_machine_is_reached_past_the_environments_proxy(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    with serving(lambda _: (ANSWER, b"")) as peer:
        port = peer.address.rpartition(":")[2]
        with Segmenter(f"grpc://{host}:{port}", timeout=10) as segmenter:
            assert segmenter.segment(b"x").caption == ANSWER["caption"]


def test_another_machine_is_reached_through_the_environments_proxy() -> None:
    assert "grpc.enable_http_proxy" not in dict(parse_address("segment.example.org").channel_options())


def test_one_segmenter_serves_many_threads() -> None:
    def reply(request: Any) -> Any:
        return {**ANSWER, "caption": request.raw_input_contents[0][4:].decode()}, b""

    with serving(reply) as peer, Segmenter(peer.address) as segmenter, ThreadPoolExecutor(16) as pool:
        captions = list(pool.map(lambda i: segmenter.segment(str(i).encode()).caption, range(64)))
    assert captions == [str(i) for i in range(64)]


def test_asynchronous_calls_run_side_by_side() -> None:
    together = threading.Barrier(4, timeout=10)

    def reply(_: Any) -> Any:
        together.wait()  # only passed when four calls are here at once
        return ANSWER, b""

    async def four(address: str) -> list[Any]:
        async with AsyncSegmenter(address) as segmenter:
            return await asyncio.gather(*(segmenter.segment(b"picture") for _ in range(4)))

    with serving(reply) as peer:
        assert len(asyncio.run(four(peer.address))) == 4


def wait(address: str, asynchronous: bool, timeout: float) -> None:
    if not asynchronous:
        with Segmenter(address) as segmenter:
            return segmenter.wait_until_ready(timeout)

    async def call() -> None:
        async with AsyncSegmenter(address) as segmenter:
            await segmenter.wait_until_ready(timeout)

    return asyncio.run(call())


@pytest.mark.parametrize("asynchronous", [False, True])
def test_waiting_ends_when_the_server_is_ready(asynchronous: bool) -> None:
    with serving() as peer:
        peer.ready = False
        threading.Timer(0.5, lambda: setattr(peer, "ready", True)).start()
        start = time.monotonic()
        wait(peer.address, asynchronous, 10)
        assert 0.4 < time.monotonic() - start < 5


@pytest.mark.parametrize("asynchronous", [False, True])
def test_waiting_gives_up(asynchronous: bool) -> None:
    with serving() as peer:
        peer.ready = False
        with pytest.raises(DeadlineExceeded, match=r"was not ready to segment after 0\.3 s"):
            wait(peer.address, asynchronous, 0.3)
    with pytest.raises(CannotConnect):
        wait(peer.address, asynchronous, 0.3)


@contextmanager
def far_away(address: str, seconds: float) -> Iterator[str]:
    """The server behind a line on which the first bytes take `seconds`: a distant one, or a machine that is busy."""
    host, _, port = address.removeprefix("grpc://").rpartition(":")

    def forward(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)

    def connect(near: socket.socket) -> None:
        time.sleep(seconds)
        with contextlib.suppress(OSError), socket.create_connection((host, int(port))) as peer, near:
            threading.Thread(target=forward, args=(near, peer), daemon=True).start()
            forward(peer, near)

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=connect, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield f"grpc://127.0.0.1:{listener.getsockname()[1]}"


def test_a_connection_may_take_its_time() -> None:
    """A second and more, as with TLS to another continent; the call's own timeout is the limit."""
    with serving() as peer:
        with far_away(peer.address, 1.5) as address, Segmenter(address, timeout=10) as segmenter:
            assert segmenter.segment(b"picture").width == 12
        # An address of its own: gRPC shares connections in a process, and may not have closed the first one yet.
        with (
            far_away(peer.address, 1.5) as address,
            Segmenter(address) as segmenter,
            pytest.raises(DeadlineExceeded),
        ):
            segmenter.segment(b"picture", timeout=0.5)


def test_the_same_client_works_again_after_a_restart() -> None:
    with serving() as peer:
        segmenter = Segmenter(peer.address, retries=0)
        assert segmenter.segment(b"picture").width == 12
    with segmenter:
        with pytest.raises(CannotConnect):
            segmenter.segment(b"picture")
        with serving(port=int(peer.address.rpartition(":")[2])):
            segmenter.wait_until_ready(10)
            assert segmenter.segment(b"picture").width == 12
