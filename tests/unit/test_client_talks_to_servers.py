"""Several servers in turn, retries of what is safe, headers, and TLS."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from kserve_peer import ANSWER, Refusal, serving

from florence2_sam2.client import (
    AsyncSegmenter,
    CannotConnect,
    InvalidRequest,
    Segmenter,
    ServerError,
    ServerOverloaded,
)
from florence2_sam2.client.connection import parse_address

TLS = Path(__file__).resolve().parents[1] / "data" / "tls"


def refusing(count: int, code: grpc.StatusCode) -> Callable[[Any], tuple[dict[str, Any], bytes]]:
    """Refuses `count` requests and answers the others."""
    left = count

    def reply(_: Any) -> tuple[dict[str, Any], bytes]:
        nonlocal left
        left -= 1
        if left >= 0:
            raise Refusal(code, "the server is full: 32 calls are waiting already, try again later")
        return ANSWER, b""

    return reply


def ask(address: Any, awaited: bool, **options: Any) -> Any:
    if not awaited:
        with Segmenter(address, **options) as client:
            return client.segment(b"picture" * 100_000)  # more than gRPC keeps for a retry by default

    async def call() -> Any:
        async with AsyncSegmenter(address, **options) as client:
            return await client.segment(b"picture" * 100_000)

    return asyncio.run(call())


@pytest.mark.parametrize("awaited", [False, True])
def test_a_full_server_is_asked_again(awaited: bool) -> None:
    with serving(refusing(2, grpc.StatusCode.UNAVAILABLE)) as peer:
        assert ask(peer.address, awaited).width == 12
        assert len(peer.received) == 3
    with serving(refusing(3, grpc.StatusCode.UNAVAILABLE)) as peer:
        with pytest.raises(ServerOverloaded, match="is full"):
            ask(peer.address, awaited)
        assert len(peer.received) == 3
    with serving(refusing(1, grpc.StatusCode.UNAVAILABLE)) as peer:
        with pytest.raises(ServerOverloaded):
            ask(peer.address, awaited, retries=0)
        assert len(peer.received) == 1


@pytest.mark.parametrize(
    ("code", "error"),
    [(grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest), (grpc.StatusCode.INTERNAL, ServerError)],
)
def test_nothing_else_is_tried_again(code: grpc.StatusCode, error: type[Exception]) -> None:
    with serving(refusing(1, code)) as peer:
        with pytest.raises(error):
            ask(peer.address, awaited=False)
        assert len(peer.received) == 1


@pytest.mark.parametrize("awaited", [False, True])
def test_servers_take_turns(awaited: bool) -> None:
    with serving() as one, serving() as two:
        addresses = [one.address, two.address]

        async def many() -> None:
            async with AsyncSegmenter(addresses) as client:
                for _ in range(20):
                    await client.segment(b"picture")

        if awaited:
            asyncio.run(many())
        else:
            with Segmenter(addresses) as client:
                for _ in range(20):
                    client.segment(b"picture")
        counts = [len(peer.received) for peer in (one, two)]
        assert sum(counts) == 20
        assert min(counts) >= 8  # the second connection may be a call or two late


def test_a_lost_server_loses_no_call() -> None:
    """Whether a call is under way there when it goes, or comes later; and when it is back it takes its share."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(_: Any) -> tuple[dict[str, Any], bytes]:
        begun.set()
        go_on.wait(20)
        return ANSWER, b""

    with serving() as stays:
        with serving(slow) as goes:
            client = Segmenter([stays.address, goes.address], timeout=20)
            threads, widths = [], []
            while not begun.is_set():
                call = threading.Thread(target=lambda: widths.append(client.segment(b"picture").width))
                call.start()
                threads.append(call)
                begun.wait(0.2)
        # stopped without grace: the call that was under way there has broken off
        go_on.set()
        for call in threads:
            call.join(20)
        assert widths == [12] * len(threads)
        with client:
            for _ in range(10):
                assert client.segment(b"picture").width == 12
            with serving(port=int(goes.address.rpartition(":")[2])) as back:
                for _ in range(200):
                    client.segment(b"picture")
                    if len(back.received) > 3:
                        break
                    threading.Event().wait(0.05)
                assert len(back.received) > 3


def test_without_any_server() -> None:
    with (
        Segmenter(["127.0.0.1:1", "127.0.0.1:2"], retries=0) as client,
        pytest.raises(CannotConnect) as caught,
    ):
        client.segment(b"picture")
    assert "grpc://127.0.0.1:1, grpc://127.0.0.1:2" in caught.value.message


def test_names_of_several_servers_are_looked_up() -> None:
    target = parse_address(["localhost:8001", "127.0.0.2:9001"]).target
    assert target == "ipv4:127.0.0.1:8001,127.0.0.2:9001"
    assert parse_address(["localhost:8001", "localhost:8001"]).target == "localhost:8001"


@pytest.mark.parametrize("awaited", [False, True])
def test_headers_travel_with_every_call(awaited: bool) -> None:
    with serving() as peer:
        ask(peer.address, awaited, headers={"X-Team": "robots"}, api_key="s3cret")
        assert peer.metadata[0]["x-team"] == "robots"
        assert peer.metadata[0]["authorization"] == "Bearer s3cret"


def credentials(ask_for_clients: bool) -> grpc.ServerCredentials:
    pair = (TLS / "server.key").read_bytes(), (TLS / "server.pem").read_bytes()
    return grpc.ssl_server_credentials([pair], (TLS / "ca.pem").read_bytes(), ask_for_clients)


@pytest.mark.parametrize("awaited", [False, True])
def test_tls(awaited: bool) -> None:
    with serving(credentials=credentials(ask_for_clients=True)) as peer:
        own = {"private_key": TLS / "client.key", "certificate_chain": TLS / "client.pem"}
        assert ask(peer.address, awaited, root_certificates=TLS / "ca.pem", **own).width == 12
        with pytest.raises(CannotConnect):  # the server does not know who asks
            ask(peer.address, awaited, root_certificates=TLS / "ca.pem", timeout=5, retries=0)
    with serving(credentials=credentials(ask_for_clients=False)) as peer:
        assert ask(peer.address, awaited, root_certificates=TLS / "ca.pem").width == 12
        with pytest.raises(CannotConnect):  # nobody vouches for the server
            ask(peer.address, awaited, timeout=5, retries=0)


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ([], {}, "at least one"),
        (["grpcs://a", "grpcs://b"], {}, "with TLS only one"),
        (["no-such-host.invalid", "localhost"], {}, "name is not known"),
        ("a", {"retries": 5}, "from 0 to 4"),
        ("a", {"retries": -1}, "from 0 to 4"),
        ("a", {"headers": {"two words": "x"}}, "'two words' is no name"),
        ("a", {"headers": {"data-bin": "x"}}, "'data-bin' is no name"),
        ("a", {"headers": {"x": "ä"}}, "printable ASCII"),
        ("a", {"root_certificates": TLS / "ca.pem"}, "write grpcs://a"),
        ("grpcs://a", {"private_key": TLS / "client.key"}, "go together"),
    ],
)
def test_wrong_options_are_named(url: Any, options: dict[str, Any], words: str) -> None:
    for kind in (Segmenter, AsyncSegmenter):
        with pytest.raises(ValueError, match=words):
            kind(url, **options)


def test_a_certificate_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        Segmenter("grpcs://a", root_certificates="no/such.pem")
