"""`florence2-sam2 health`: whether a running server works, as one line and an exit code.

Over HTTP it needs nothing but the standard library and is quick enough for a container's health check; gRPC takes the
client's packages.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
import time
import zlib
from typing import Any, Protocol

from florence2_sam2.cli.address import DEFAULT_URL, URL_VARIABLE, default_url

SECONDS, DEEP_SECONDS = 10.0, 120.0
SIDE = 64
BOX = [8, 8, 40, 40]
CAPTION_TOKENS = 8
FULL = "the server is full"


class NotWell(Exception):
    """Why the server does not count as healthy."""


class Usage(Exception):
    """What is wrong with the arguments."""


class Server(Protocol):
    """One of the two ways to a server. Both methods raise NotWell."""

    def health(self, seconds: float) -> dict[str, Any]:
        """What the server tells of itself."""

    def segment(self, picture: bytes, options: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The answer of `segment` to an encoded picture."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Exit code 0: the server is well, 1: it is not, or does not answer, 2: wrong usage."
    parser.add_argument(
        "--url",
        default=default_url(),
        help=f"grpc(s):// or http(s):// (default: ${URL_VARIABLE}, else {DEFAULT_URL})",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help=f"for each request (default: {SECONDS:g}, with --deep {DEEP_SECONDS:g})",
    )
    parser.add_argument(
        "--deep", action="store_true", help="also segment a small picture and have a short caption written"
    )
    parser.add_argument(
        "--tls-ca", metavar="F", help="trust these authorities (PEM) in place of the usual ones"
    )
    parser.add_argument("--tls-cert", metavar="F", help="this client's certificate, PEM")
    parser.add_argument("--tls-key", metavar="F", help="the key of --tls-cert, PEM")


def run(arguments: argparse.Namespace) -> int:
    limit = DEEP_SECONDS if arguments.deep else SECONDS
    if arguments.timeout is not None:
        limit = arguments.timeout
    try:
        if not 0 < limit < float("inf"):
            raise Usage(f"--timeout: {limit:g} s are no time")
        server = _server(arguments)
        began = time.perf_counter()
        told = _state(server.health(limit))
        milliseconds = 1e3 * (time.perf_counter() - began)
        deep = f"; {_work(server, limit)}" if arguments.deep else ""
    except Usage as error:
        print(f"florence2-sam2 health: {error}", file=sys.stderr)
        return 2
    except NotWell as error:
        print(f"{arguments.url} is not well: {error}", file=sys.stderr)
        return 1
    print(f"{arguments.url} is well: {told}, after {milliseconds:.0f} ms{deep}")
    return 0


def _server(arguments: argparse.Namespace) -> Server:
    files = (arguments.tls_ca, arguments.tls_cert, arguments.tls_key)
    if (arguments.tls_cert is None) != (arguments.tls_key is None):
        raise Usage("--tls-cert and --tls-key go together")
    try:
        if arguments.url.lower().startswith(("http://", "https://")):
            from florence2_sam2.cli.health_http import Http

            return Http(arguments.url, *files)
        from florence2_sam2.cli.health_grpc import Grpc

        return Grpc(arguments.url, *files)
    except (ValueError, OSError) as error:
        raise Usage(str(error)) from None


def _state(told: dict[str, Any]) -> str:
    if told.get("healthy") is not True:
        raise NotWell("it does not say that it is healthy")
    return f"{told['in_flight']} in flight, {told['waiting']} waiting, {told['answered']} answered"


def _work(server: Server, seconds: float) -> str:
    """One box for SAM2, a few words for Florence-2, of a picture that no memory knows; how long both took."""
    picture = png(random.randrange(256), random.randrange(256), random.randrange(256))
    began = time.perf_counter()
    try:
        boxes = server.segment(picture, {"boxes": [BOX]}, seconds)
        if len(boxes["objects"]) + len(boxes["filtered"]) != 1:
            raise NotWell("of one box it has not made one mask")
        caption = server.segment(picture, {"max_new_tokens": CAPTION_TOKENS}, seconds)
        if caption["caption_source"] != "florence2":
            raise NotWell("it has written no caption")
    except NotWell as error:
        if FULL in str(error):
            return "full, so that it has not been asked for a real answer"
        raise
    return f"a box and a caption after {time.perf_counter() - began:.2f} s"


def png(red: int, green: int, blue: int) -> bytes:
    """A light picture of SIDE × SIDE pixels with a square of that colour."""
    light, dark = bytes((230, 230, 230)), bytes((red, green, blue))
    inside = range(BOX[0], BOX[2])
    square = b"".join(dark if column in inside else light for column in range(SIDE))
    rows = [b"\0" + (square if row in range(BOX[1], BOX[3]) else light * SIDE) for row in range(SIDE)]
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(rows))),
        (b"IEND", b""),
    )
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body
