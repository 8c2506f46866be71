"""`scripts/load`: open and closed loops, requests that are never the same, and the small servers for URLs."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import time
from typing import Any, cast

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from bench.load.loops import SETTLE_SECONDS, beside, closed_loop, open_loop
from bench.load.sites import HOST, Sites
from bench.load.wire import Requests, Sample, Wire, request_of, with_comment
from bench.speed import pictures


class Peer:
    """In place of a `Wire`: answers after `seconds`, and knows who is there at once."""

    def __init__(self, seconds: float, code: str = "OK") -> None:
        self.seconds, self.code = seconds, code
        self.asked: list[bytes] = []
        self.now = self.most = 0

    async def ask(self, number: int, request: bytes, began: float, due: float | None = None) -> Sample:
        clock = asyncio.get_running_loop().time
        sent = clock()
        self.asked.append(request)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(self.seconds)
        self.now -= 1
        due = sent if due is None else due
        return Sample(number, due - began, sent - began, clock() - began, self.code)


def make(number: int) -> bytes:
    return b"%d" % number


def test_an_open_loop_waits_for_nobody() -> None:
    peer = Peer(0.3)
    samples = asyncio.run(open_loop(cast(Wire, peer), make, [0.0, 0.0, 0.05, 0.1], first=5))
    assert [one.number for one in samples] == [5, 6, 7, 8]
    assert [one.due for one in samples] == pytest.approx([0.0, 0.0, 0.05, 0.1])
    assert all(one.sent >= one.due for one in samples)
    assert peer.most == 4
    assert peer.asked == [b"5", b"6", b"7", b"8"]


def test_a_closed_loop_has_each_caller_wait_for_its_answer() -> None:
    peer = Peer(0.02)
    samples = asyncio.run(closed_loop(cast(Wire, peer), make, 3, range(10)))
    assert peer.most == 3
    assert sorted(one.number for one in samples) == list(range(10))
    assert samples == sorted(samples, key=lambda one: one.ended)
    assert all(one.due == one.sent for one in samples)


def test_who_is_refused_does_not_ask_again_at_once() -> None:
    began = time.monotonic()
    samples = asyncio.run(closed_loop(cast(Wire, Peer(0, "UNAVAILABLE")), make, 1, range(4)))
    assert len(samples) == 4
    assert time.monotonic() - began > 0.15


def test_what_runs_beside_a_measurement_begins_before_it_and_ends_with_it() -> None:
    peer = Peer(0.05)
    numbers = itertools.count(100)
    ours, theirs = asyncio.run(beside(cast(Wire, peer), make, range(3), make, 4, numbers))
    assert [one.number for one in ours] == [0, 1, 2]
    assert peer.most == 5
    assert len(theirs) >= 4 * SETTLE_SECONDS / 0.05 / 2, "they did not go on all the time"
    assert peer.asked.index(b"0") > 4, "the measurement did not wait for them"
    assert peer.now == 0


def test_each_request_has_a_file_of_its_own_and_the_same_pixels() -> None:
    files = [pictures.picture(number, 64, 48) for number in range(2)]
    requests = Requests(files, {"formats": ["rle"], "area_threshold": 1.0})
    sent = [pb.ModelInferRequest.FromString(requests(number)) for number in (0, 2, 4)]
    images = []
    for message in sent:
        names = [tensor.name for tensor in message.inputs]
        assert sorted(names) == ["area_threshold", "image", "options"]
        assert [output.name for output in message.outputs] == ["result"]
        raw = dict(zip(names, message.raw_input_contents, strict=True))
        assert raw["image"][:4] == (len(raw["image"]) - 4).to_bytes(4, "little")
        assert np.frombuffer(raw["area_threshold"], np.float32) == 1.0
        images.append(raw["image"][4:])
    assert len(set(images)) == 3
    assert all(np.array_equal(pictures.decoded(image), pictures.decoded(files[0])) for image in images)
    bulk = pb.ModelInferRequest.FromString(requests.with_settings(priority="bulk")(1))
    assert b'"priority": "bulk"' in bulk.raw_input_contents[-1]


def test_a_request_for_a_url_has_no_picture() -> None:
    message = pb.ModelInferRequest.FromString(Requests([], {"formats": ["rle"]}).of_url("http://a/b"))
    assert [tensor.name for tensor in message.inputs] == ["image_url", "options"]
    assert message.raw_input_contents[0] == b"\x0a\0\0\0http://a/b"


def test_inputs_are_typed() -> None:
    message = pb.ModelInferRequest.FromString(request_of({"output_mask": np.array([True]), "caption": b"a"}))
    assert [(tensor.datatype, list(tensor.shape)) for tensor in message.inputs] == [
        ("BOOL", [1]),
        ("BYTES", [1]),
    ]


def test_a_comment_is_one_of_jpegs_own() -> None:
    assert with_comment(b"\xff\xd8rest", b"12") == b"\xff\xd8\xff\xfe\x00\x0412rest"


def get(port: int, path: str, read: int | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(read)
    finally:
        connection.close()


def test_sites_serve_files_and_slow_ones_a_byte_a_second() -> None:
    with Sites(2, [b"first", b"second"]) as sites:
        assert get(sites.port, "/1") == (200, b"second")
        assert get(sites.port, "/2")[0] == get(sites.port, "/nothing")[0] == get(sites.port, "/")[0] == 404
        assert sites.url(1) == f"http://{HOST}:{sites.port}/1"
        assert sites.slow_url(0) == sites.slow_url(2) != sites.slow_url(1)
        assert set(sites.allowed) == {f"{HOST}:{port}" for port in (sites.port, *sites.slow_ports)}
        began = time.monotonic()
        status, body = get(sites.slow_ports[0], "/slow.jpg", 4)
        assert (status, body) == (200, b"\xff\xd8\xff\xff")
        assert 1.5 < time.monotonic() - began < 4
        assert sites.fetches == 5
        ports = (sites.port, *sites.slow_ports)
    for port in ports:
        with pytest.raises(OSError, match="refused"):
            get(port, "/0")


def test_sites_end_with_connections_open() -> None:
    with Sites(1) as sites:
        connection = http.client.HTTPConnection(HOST, sites.slow_ports[0], timeout=10)
        connection.request("GET", "/")
        response: Any = connection.getresponse()
        began = time.monotonic()
    assert time.monotonic() - began < 5
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        response.read()
    connection.close()
