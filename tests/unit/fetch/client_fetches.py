"""A client that fetches pictures' URLs itself, and what it says."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest
from kserve_peer import Peer, serving
from url_servers import Handler, Server

from florence2_sam2.client import AsyncSegmenter, InvalidRequest, Segmentation, Segmenter, UrlRules

AWAITED = pytest.mark.parametrize("awaited", [False, True], ids=["blocking", "awaited"])


def allowing(*servers: Server, **rules: Any) -> UrlRules:
    return UrlRules(allow=[f"127.0.0.1:{server.port}" for server in servers], **rules)


def segment(peer: Peer, url: str, rules: UrlRules, awaited: bool = False, **options: Any) -> Segmentation:
    if not awaited:
        with Segmenter(peer.address, fetch="client", url_rules=rules) as client:
            return client.segment(url, **options)

    async def call() -> Segmentation:
        async with AsyncSegmenter(peer.address, fetch="client", url_rules=rules) as client:
            return await client.segment(url, **options)

    return asyncio.run(call())


def refusal(url: str, rules: UrlRules, awaited: bool = False, **options: Any) -> str:
    """The message of an InvalidRequest that names `image`; nothing was sent to the server."""
    with serving() as peer:
        with pytest.raises(InvalidRequest) as caught:
            segment(peer, url, rules, awaited, **options)
        assert peer.received == []
    assert caught.value.field == "image"
    assert "\n" not in caught.value.message
    return caught.value.message


def silence(connection: socket.socket, _: bytes) -> None:
    while connection.recv(4096):
        pass


def after(seconds: float, data: bytes) -> Handler:
    def handle(connection: socket.socket, _: bytes) -> None:
        time.sleep(seconds)
        connection.sendall(data)

    return handle
