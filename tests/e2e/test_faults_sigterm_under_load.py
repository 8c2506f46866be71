"""SIGTERM while eight clients call without a pause: each call is answered or refused, and none is cut off."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from calls import until
from serving import Served

from florence2_sam2.client import CannotConnect, Finished, Segmenter, SegmenterError, ServerOverloaded

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

PICTURE = (Path(__file__).resolve().parents[2] / "docs" / "pictures" / "demo.jpg").read_bytes()
# How a server that is stopping says no over HTTP, where the status tells nothing.
STOPPING = ("has no available versions", "UNAVAILABLE: ", "is stopping")


def unlike() -> bytes:
    """The same picture in other bytes: nothing is remembered of it."""
    return PICTURE + os.urandom(8)


class Refused(Exception):
    """The server has done nothing for the call."""


class Client(threading.Thread):
    """Calls until it is refused, which is `refused_at`, or until something else happens, which is in `fault`."""

    def __init__(self, served: Served, way: str) -> None:
        super().__init__(name=way)
        self._address, self._http = served.addresses["grpc"], served.addresses["http"]
        self._ask: Callable[[], None] = getattr(self, f"_{way}")
        self.answered = 0
        self.refused_at: float | None = None
        self.fault: str | None = None

    def run(self) -> None:
        with Segmenter(self._address, retries=0, timeout=40) as self._segmenter:
            while self.fault is None and self.refused_at is None:
                began = time.monotonic()
                try:
                    self._ask()
                    self.answered += 1
                except (Refused, ServerOverloaded):
                    self.refused_at = time.monotonic()
                except CannotConnect as error:
                    if error.broke:
                        self.fault = f"broke after {time.monotonic() - began:.2f} s: {error}"
                    else:
                        self.refused_at = time.monotonic()
                except Exception as error:  # whatever it is, it is no refusal
                    code = getattr(error, "code", "")
                    self.fault = (
                        f"{type(error).__name__} {code} after {time.monotonic() - began:.2f} s: {error}"
                    )

    def _segment(self) -> None:
        assert self._segmenter.segment(unlike()).width

    def _florence2(self) -> None:
        assert self._segmenter.florence2(PICTURE, num_beams=8).text

    def _sam2(self) -> None:
        assert self._segmenter.sam2(PICTURE, [[20, 20, 200, 200]] * 20).masks.shape[0] == 20

    def _stream(self) -> None:
        told: list[Any] = []
        try:
            told.extend(self._segmenter.stream(unlike()))
        except SegmenterError as error:
            if told:
                self.fault = f"after {len(told)} events: {error}"
            raise
        assert isinstance(told[-1], Finished)

    def _over_http(self) -> None:
        body = json.dumps({"image_base64": base64.b64encode(unlike()).decode()})
        host, _, port = self._http.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=40)
        try:
            connection.connect()
        except ConnectionError:
            raise Refused from None
        try:
            connection.request("POST", "/v2/models/segment_http/generate", body)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status != 200 and any(words in text for words in STOPPING):
            raise Refused
        assert answer.status == 200, text
        assert json.loads(json.loads(text)["result"])["image"]


def test_eight_steady_clients(tmp_path: Path) -> None:
    served = Served(tmp_path)
    try:
        served.wait_ready()
        ways = ("segment", "segment", "stream", "stream", "over_http", "over_http", "sam2", "florence2")
        clients = [Client(served, way) for way in ways]
        for client in clients:
            client.start()
        assert until(lambda: all(client.answered or client.fault for client in clients), 60)
        served.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        for client in clients:
            client.join(60)
        assert served.process.wait(40) == 0
        print(
            f"gone {time.monotonic() - began:.1f} s after SIGTERM, ready after {served.start_seconds:.1f} s"
        )
        print(*(f"{c.name} {c.refused_at - began:.1f} s" for c in clients if c.refused_at), sep=", ")
        assert served.nothing_left()
        assert not [f"{client.name}: {client.fault}" for client in clients if client.fault]
        refusals = Counter(client.name for client in clients if client.refused_at)
        assert refusals == Counter(ways)
        last = max(client.refused_at or began for client in clients)
        assert last - began < 30, "new work was taken on and on"
    finally:
        served.end()
