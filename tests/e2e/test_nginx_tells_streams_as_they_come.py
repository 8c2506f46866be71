"""The shipped nginx configuration before the real server: events come while the work goes on, and leaving ends it."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import proxy
import pytest
from proxy import BEARER, STREAM, Proxy
from test_segment_stream_tells_how_far_it_is import LONG, comes_to_rest, encoded, same, unlike

from florence2_sam2.client import CaptionWritten, Finished, Segmentation
from florence2_sam2.server.launch.embedded import EmbeddedServer

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def nginx(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with proxy.before(server, tmp_path_factory.mktemp("nginx")) as (running, _, _):
        yield running


def body(number: int, settings: dict[str, Any] = LONG) -> bytes:
    fields = {"image_base64": base64.b64encode(unlike(number)).decode(), "options": json.dumps(settings)}
    return json.dumps(fields).encode()


def test_over_http_events_come_as_they_are_told(nginx: Proxy) -> None:
    settings: dict[str, Any] = {"tiles": 2, "num_beams": 3}
    with contextlib.closing(nginx.connect()) as connection:
        began = time.monotonic()
        connection.request("POST", STREAM, body(101, settings), BEARER)
        response = connection.getresponse()
        assert response.status == 200
        assert str(response.getheader("Content-Type")).startswith("text/event-stream")
        told: list[tuple[float, str]] = []
        for line in response:
            if line.startswith(b"data:"):
                event = json.loads(json.loads(line.removeprefix(b"data:"))["event"])
                told.append((time.monotonic() - began, event["event"]))
    assert [told[0][1], told[-1][1]] == ["started", "result"]
    assert told[0][0] < told[-1][0] / 2, told
    assert len({round(seconds, 2) for seconds, _ in told}) > 3  # not two heaps
    with nginx.segmenter() as client:
        plain = client.segment(unlike(101), formats=(), **settings)
    assert Segmentation.from_json(event["result"]).objects == plain.objects


def test_over_http_who_leaves_ends_the_work(nginx: Proxy, server: EmbeddedServer) -> None:
    before = encoded(server)
    with contextlib.closing(nginx.connect()) as connection:
        connection.request("POST", STREAM, body(102), BEARER)
        response = connection.getresponse()
        assert any(b"boxes" in line or b"caption" in line for line in response)
        response.close()
    assert comes_to_rest(server, before)


def test_over_grpc(nginx: Proxy, server: EmbeddedServer) -> None:
    before = encoded(server)
    with nginx.segmenter() as client:
        with contextlib.closing(client.stream(unlike(103), **LONG)) as events:
            assert any(isinstance(event, CaptionWritten) for event in events)
        assert comes_to_rest(server, before)
        *_, last = client.stream(unlike(104))
        assert isinstance(last, Finished)
        assert same(last.result, client.segment(unlike(104)))
