"""What a call is known by: the caller's id, or one that is made, in every answer and every error; nobody else's."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import socket
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from drawn import SCENE
from tritonclient.utils import InferenceServerException

from florence2_sam2.client import AsyncSegmenter, Finished, InvalidRequest, Segmenter, Started
from florence2_sam2.server.launch.embedded import EmbeddedServer

pytestmark = pytest.mark.server

ENCODED = base64.b64encode(SCENE).decode()
BOXES = [[20, 20, 80, 80]]
FIELDS = {"image_base64": ENCODED, "options": json.dumps({"boxes": BOXES})}
MADE = re.compile("[0-9a-f]{16}")


def post(server: EmbeddedServer, **fields: Any) -> tuple[int, dict[str, Any]]:
    """Status and body of a call over HTTP; of a success the answer itself."""
    request = urllib.request.Request(
        f"http://{server.http_address}/v2/models/segment_http/generate",
        json.dumps(FIELDS | fields).encode(),
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(json.load(answer)["result"])
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def raw(server: EmbeddedServer, request_id: str, **metadata: str) -> Any:
    """An answer of `segment`, tritonclient's InferResult."""
    inputs = []
    for name, value in (("image", SCENE), ("options", FIELDS["options"].encode())):
        tensor = tritonclient.grpc.InferInput(name, [1], "BYTES")
        tensor.set_data_from_numpy(np.array([value], np.object_))
        inputs.append(tensor)
    with tritonclient.grpc.InferenceServerClient(server.grpc_address) as client:
        return client.infer(
            "segment", inputs, request_id=request_id, headers=metadata or None, client_timeout=60
        )


def test_over_grpc(server: EmbeddedServer) -> None:
    with Segmenter(server.grpc_address) as segmenter:
        result = segmenter.segment(SCENE, boxes=BOXES, request_id="order 17/b")
        assert result.request_id == result.raw["request_id"] == "order 17/b"
        assert MADE.fullmatch(segmenter.segment(SCENE, boxes=BOXES).request_id or "")
        assert segmenter.florence2(SCENE, "<OD>", request_id="mine").request_id == "mine"
        assert segmenter.sam2(SCENE, BOXES, request_id="mine").request_id == "mine"
        done = segmenter.segment_all([SCENE, SCENE], boxes=BOXES)
        assert len({one.unwrap().request_id for one in done}) == 2


def test_awaited(server: EmbeddedServer) -> None:
    async def call() -> None:
        async with AsyncSegmenter(server.grpc_address) as segmenter:
            assert (await segmenter.segment(SCENE, boxes=BOXES, request_id="mine")).request_id == "mine"
            events = [event async for event in segmenter.stream(SCENE, boxes=BOXES, request_id="mine")]
            assert isinstance(events[0], Started)
            assert isinstance(events[-1], Finished)
            assert events[0].request_id == events[-1].result.request_id == "mine"
            with pytest.raises(InvalidRequest) as refused:
                await segmenter.segment(SCENE, nms_threshold=2, request_id="mine")
            assert refused.value.request_id == "mine"

    asyncio.run(call())


def test_of_a_stream(server: EmbeddedServer) -> None:
    with Segmenter(server.grpc_address) as segmenter:
        first, *_, last = segmenter.stream(SCENE, boxes=BOXES, request_id="mine")
        assert isinstance(first, Started)
        assert isinstance(last, Finished)
        assert first.request_id == last.result.request_id == "mine"


def test_without_the_client(server: EmbeddedServer) -> None:
    answer = raw(server, "mine")
    assert json.loads(answer.as_numpy("result").item())["request_id"] == "mine"
    assert answer.get_response().id == "mine"
    unnamed = raw(server, "")
    assert MADE.fullmatch(json.loads(unnamed.as_numpy("result").item())["request_id"])
    headed = raw(server, "", **{"x-request-id": "the proxy's"})
    assert json.loads(headed.as_numpy("result").item())["request_id"] == "the proxy's"


def test_over_http(server: EmbeddedServer) -> None:
    assert post(server, id="mine")[1]["request_id"] == "mine"
    assert MADE.fullmatch(post(server)[1]["request_id"])


def test_over_http_with_tensors_headers_count_too(server: EmbeddedServer) -> None:
    tensor = tritonclient.http.InferInput("image_base64", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([ENCODED.encode()], np.object_))
    with tritonclient.http.InferenceServerClient(server.http_address) as client:
        for own, headers, named in (
            ("", {"X-Request-ID": "the proxy's"}, "the proxy's"),
            ("mine", {"X-Request-ID": "the proxy's"}, "mine"),
        ):
            answer = client.infer("segment_http", [tensor], request_id=own, headers=headers)
            assert json.loads(answer.as_numpy("result").item())["request_id"] == named


def test_over_http_as_a_stream(server: EmbeddedServer) -> None:
    request = urllib.request.Request(
        f"http://{server.http_address}/v2/models/segment_stream/generate_stream",
        json.dumps(FIELDS | {"id": "mine"}).encode(),
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line.startswith("data:")]
    events = [json.loads(json.loads(line.removeprefix("data:"))["event"]) for line in lines]
    assert events[0]["event"] == "started"
    assert events[0]["request_id"] == events[-1]["result"]["request_id"] == "mine"


def test_errors_have_it_too(server: EmbeddedServer) -> None:
    with Segmenter(server.grpc_address) as segmenter:
        with pytest.raises(InvalidRequest) as refused:
            segmenter.segment(SCENE, nms_threshold=2, request_id="mine")
        assert refused.value.request_id == "mine"
        with pytest.raises(InvalidRequest) as refused:
            list(segmenter.stream(SCENE, nms_threshold=2, request_id="mine"))
        assert refused.value.request_id == "mine"
        with pytest.raises(InvalidRequest) as refused:
            segmenter.segment(SCENE, nms_threshold=2)
        assert MADE.fullmatch(refused.value.request_id or "")
        with pytest.raises(InvalidRequest, match="cannot be fetched here") as refused:
            segmenter.segment("http://127.0.0.1/", fetch="client", request_id="mine")
        assert refused.value.request_id == "mine"


@pytest.mark.parametrize("wrong", ["two\nlines", "a" * 129, "naïve", "\x1b[2J"])
def test_one_that_could_harm_a_log_is_refused(server: EmbeddedServer, wrong: str) -> None:
    said = "a request id has 1 to 128 characters, all of them printable ASCII"
    with pytest.raises(InferenceServerException) as refused:
        raw(server, wrong)
    assert (refused.value.status(), refused.value.message()) == (
        "StatusCode.INVALID_ARGUMENT",
        f"id: {said}",
    )
    assert post(server, id=wrong) == (400, {"error": f"id: {said}"})
    if wrong.isascii() and wrong.isprintable():
        with pytest.raises(InferenceServerException, match=f" x-request-id: {said}$"):
            raw(server, "", **{"x-request-id": wrong})


@pytest.mark.parametrize("name", ["x-request-id", "traceparent", "tracestate"])
def test_headers_that_are_no_text_harm_nobody(server: EmbeddedServer, name: str) -> None:
    texts = {"image_base64": ENCODED, "options": FIELDS["options"]}
    inputs = [
        {"name": key, "shape": [1], "datatype": "BYTES", "data": [value]} for key, value in texts.items()
    ]
    body = json.dumps({"inputs": inputs}).encode()
    with socket.create_connection(server.http_address.rsplit(":", 1), timeout=60) as connection:
        head = f"POST /v2/models/segment_http/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        connection.sendall(
            head.encode() + name.encode() + b': \xff\xfe"\\\r\nConnection: close\r\n\r\n' + body
        )
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 400")), answer[:200]
    assert b"Traceback" not in answer
    assert post(server)[0] == 200


def test_callers_who_share_work_keep_their_own(server: EmbeddedServer) -> None:
    ids = [f"caller {number}" for number in range(8)]
    with Segmenter(server.grpc_address) as segmenter, ThreadPoolExecutor(len(ids)) as pool:
        ask = segmenter.segment
        results = list(pool.map(lambda name: ask(SCENE, caption="a red car", request_id=name), ids))
    assert [result.request_id for result in results] == ids
    told = [
        {key: value for key, value in result.raw.items() if key not in ("request_id", "timings_ms")}
        for result in results
    ]
    assert all(one == told[0] for one in told)
