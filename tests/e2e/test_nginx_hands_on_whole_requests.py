"""The shipped nginx configuration before the real server: large, cut up, slow and unlucky requests."""

from __future__ import annotations

import base64
import contextlib
import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import proxy
import pytest
from drawn import SCENE, segment
from proxy import BEARER, GENERATE, KEY, Proxy, Relay
from test_contract_over_http import BOX, ENCODED
from test_nginx_lets_only_known_callers_pass import timeless
from tritonclient.grpc import InferInput

from florence2_sam2.client import InvalidRequest, Segmentation, ServerOverloaded
from florence2_sam2.server.launch.checks import free_port
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.settings import Settings

pytestmark = pytest.mark.server

Place = tuple[Proxy, Relay, Relay]
SMALL = {"image_base64": ENCODED, "options": BOX}
KEYS = [("authorization", f"Bearer {KEY}")]
SLOW_SECONDS = 10  # client_header_timeout, client_body_timeout
LARGEST = Settings().max_image_bytes


@pytest.fixture(scope="module")
def place(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with proxy.before(server, tmp_path_factory.mktemp("nginx")) as running:
        yield running


def pieces(body: bytes, size: int) -> Iterator[bytes]:
    """What http.client sends in chunks of this size."""
    return (body[start : start + size] for start in range(0, len(body), size))


def padded(size: int) -> bytes:
    """A picture that is so large, of which nearly nothing has to be decoded: a JPEG ends before its file does."""
    picture = (proxy.ROOT / "docs" / "pictures" / "demo.jpg").read_bytes()
    return picture + bytes(size - len(picture))


@pytest.mark.parametrize("size", [1, 5000])
def test_a_chunked_body_arrives_with_its_length(place: Place, size: int) -> None:
    nginx, http, _ = place
    # Triton 24.10 keeps something on its stack for each chunk that it reads.
    body = json.dumps(SMALL).encode() + b" " * (20_000 if size == 1 else 0)
    answer = nginx.ask("POST", GENERATE, pieces(body, size), BEARER)
    assert answer.status == 200
    head = bytes(http.heads[-1]).partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
    assert b"content-length: %d" % len(body) in head
    assert not [line for line in head if line.startswith((b"transfer-encoding", b"authorization"))]


def test_the_largest_picture_passes(place: Place, server: EmbeddedServer) -> None:
    nginx = place[0]
    picture = padded(LARGEST)
    with nginx.segmenter() as client:
        over_grpc = client.segment(picture, boxes=[[20, 20, 80, 80]], formats=())
    answer = nginx.segment(image_base64=base64.b64encode(picture).decode(), options=BOX)
    assert answer.status == 200
    over_http = Segmentation.from_json(json.loads(json.loads(answer.body)["result"]))
    direct = segment(server, padded(100_000), boxes=[[20, 20, 80, 80]])
    assert timeless(over_http) == timeless(over_grpc) == timeless(direct)


def test_more_is_refused_at_once(place: Place) -> None:
    nginx, http, _ = place
    too_large = "the request is too large; a picture may have 32 MiB"
    before = http.received
    began = time.monotonic()
    # By its length, before any of it is sent; and in chunks.
    with contextlib.closing(nginx.connect()) as connection:
        connection.putrequest("POST", GENERATE)
        for name, value in {**BEARER, "Content-Length": str(45 * 2**20)}.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        assert response.status == 413
        assert json.loads(response.read())["error"] == f"{too_large}, before base64"
    with contextlib.closing(nginx.connect()) as connection, contextlib.suppress(OSError):
        connection.request(
            "POST",
            GENERATE,
            pieces(bytes(46 * 2**20), 2**16),
            BEARER,
        )
        assert connection.getresponse().status == 413
    assert http.received == before
    with nginx.segmenter() as client:
        with pytest.raises(InvalidRequest) as refused:
            client.segment(bytes(LARGEST + 2**21))
        assert refused.value.message == too_large
        with pytest.raises(InvalidRequest) as refused:
            list(client.stream(bytes(LARGEST + 2**21)))
        assert refused.value.message == too_large
        assert client.segment(SCENE, boxes=[]).objects == ()  # the same connection goes on
    assert time.monotonic() - began < 20


def dropped_after(nginx: Proxy, first: str, drip: str) -> float:
    """Seconds until nginx has had enough of somebody who begins so, and then says `drip` every half second."""
    with (
        socket.create_connection(("localhost", nginx.port)) as plain,
        proxy.trusting().wrap_socket(plain, server_hostname="localhost") as sock,
    ):
        began = time.monotonic()
        sock.sendall(first.encode())
        sock.settimeout(0.5)
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 6 * SLOW_SECONDS:
                try:
                    if not sock.recv(1000):
                        break
                except TimeoutError:
                    sock.sendall(drip.encode())
        return time.monotonic() - began


def dropped_over_grpc_after(nginx: Proxy) -> float:
    """The same for a caller of `segment` that sends no request."""
    began, enough = time.monotonic(), threading.Event()

    def silence() -> Iterator[bytes]:
        enough.wait(6 * SLOW_SECONDS)
        yield from ()

    with nginx.channel() as channel:
        call = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        try:
            with pytest.raises(grpc.RpcError):
                call(silence(), metadata=KEYS, timeout=6 * SLOW_SECONDS)
        finally:
            enough.set()
    return time.monotonic() - began


def answered_after_silence(nginx: Proxy) -> float:
    """Seconds of a stream that is opened long before its request is sent, and stays open after it."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    began = time.monotonic()
    with nginx.triton() as client:
        client.start_stream(lambda result, error: answers.put(error), headers=dict(KEYS))
        time.sleep(1.2 * SLOW_SECONDS)
        picture = InferInput("image", [1], "BYTES")
        picture.set_data_from_numpy(np.array([SCENE], np.object_))
        client.async_stream_infer("segment_stream", [picture])
        assert answers.get(timeout=60) is None
        client.stop_stream()
    return time.monotonic() - began


def test_slow_callers_are_dropped_and_disturb_nobody(place: Place) -> None:
    nginx, http, _ = place
    start = f"POST {GENERATE} HTTP/1.1\r\nHost: localhost\r\n"
    head = start + "".join(f"{name}: {value}\r\n" for name, value in BEARER.items())
    before, others = len(http.heads), 0
    with ThreadPoolExecutor(6) as pool:
        slow = [
            pool.submit(dropped_after, nginx, "", ""),
            pool.submit(dropped_after, nginx, start, "X-Slow: 1\r\n"),  # headers that do not end
            pool.submit(dropped_after, nginx, f"{head}Content-Length: 1000\r\n\r\n{{", ""),
            pool.submit(dropped_after, nginx, f"{head}Transfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n", ""),
            pool.submit(dropped_over_grpc_after, nginx),
        ]
        stays = pool.submit(answered_after_silence, nginx)
        while not all(one.done() for one in (*slow, stays)):
            assert nginx.segment(**SMALL).status == 200
            others += 1
            time.sleep(0.1)
    seconds = [one.result() for one in slow]
    assert all(SLOW_SECONDS - 1 < lasted < 2 * SLOW_SECONDS for lasted in seconds), seconds
    assert stays.result() > SLOW_SECONDS
    assert others > 5
    assert len(http.heads) == before + others  # nothing of the slow ones was handed on


class Breaking:
    """A server that is lost in the middle of each call."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._listener.getsockname())
        self.calls = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                with self._listener.accept()[0] as near:
                    self.calls += bool(near.recv(2**16))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def test_a_lost_server_loses_no_call(
    server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    gone = f"127.0.0.1:{free_port('127.0.0.1')}"
    with contextlib.closing(Breaking()) as http, contextlib.closing(Breaking()) as other:
        folder = tmp_path_factory.mktemp("lost")
        with proxy.running(
            folder, [gone, http.address, server.http_address], [gone, other.address, server.grpc_address]
        ) as nginx:
            for _ in range(6):
                assert nginx.segment(**SMALL).status == 200
            with nginx.segmenter() as client:
                for _ in range(6):
                    assert client.segment(SCENE, boxes=[]).objects == ()
        assert http.calls > 0
        assert other.calls > 0


def test_no_server_at_all_is_said(tmp_path_factory: pytest.TempPathFactory) -> None:
    gone = f"127.0.0.1:{free_port('127.0.0.1')}"
    said = "no server answers; try again later"
    with proxy.running(tmp_path_factory.mktemp("none"), [gone], [gone]) as nginx:
        assert nginx.ask("GET", "/v2/health/live").status == 502
        answer = nginx.segment(**SMALL)
        assert (answer.status, answer.error) == (502, said)
        with nginx.segmenter(retries=0) as client:
            calls: list[Callable[[], object]] = [
                lambda: client.segment(SCENE),
                lambda: list(client.stream(SCENE)),
            ]
            for call in calls:
                with pytest.raises(ServerOverloaded) as refused:
                    call()
                assert refused.value.message == said
