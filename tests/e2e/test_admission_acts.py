"""What a full server does with calls: queue, limit in time, priorities, slow URLs, each on a real server."""

from __future__ import annotations

import concurrent.futures
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from activity import Activity
from calls import infer, logged, picture, png, until
from tritonclient.utils import InferenceServerException

from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.settings import Settings

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

QUEUE = 3
QUEUE_SECONDS = 10.0  # a long call takes as much as 8 on a busy machine
FETCHES = 24
BOXES = [[10 + n % 30, 10 + n // 30, 400 + n % 30, 380 + n // 30] for n in range(300)]


@pytest.fixture(scope="module")
def access_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("narrow") / "calls.jsonl"


@pytest.fixture(scope="module")
def narrow(access_log: Path) -> Iterator[EmbeddedServer]:
    """One place, a short queue, and URLs of this machine's ports that the tests name are not refused."""
    ports = ",".join(f"127.0.0.1:{port}" for port in PORTS)
    settings = Settings(
        max_in_flight=1,
        max_queue=QUEUE,
        queue_seconds=QUEUE_SECONDS,
        max_fetches=FETCHES,
        url_allow=tuple(ports.split(",")),
        url_total_seconds=4,
        memory_bytes=0,
        access_log=str(access_log),
    )
    with EmbeddedServer(settings=settings) as server:
        yield server


@pytest.fixture
def activity(narrow: EmbeddedServer) -> Activity:
    return Activity([], narrow.metrics_address)


@dataclass
class Ended:
    """How calls have ended, in the order in which they did."""

    names: list[str] = field(default_factory=list)
    errors: dict[str, InferenceServerException] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def call(self, server: EmbeddedServer, name: str, **inputs: Any) -> None:
        began = time.monotonic()
        try:
            infer(server.grpc_address, "segment", inputs, ["result"], 60)
        except InferenceServerException as error:
            self.errors[name] = error
        self.seconds[name] = time.monotonic() - began
        self.names.append(name)


def long_call(seed: int) -> dict[str, Any]:
    """One of a second and a half or more: many masks on a large picture, none of which suppresses another."""
    # Answered by one mask: to read a large answer would keep this process from noticing others.
    options = json.dumps({"boxes": BOXES, "formats": []}).encode()
    ones = np.ones(1, np.float32)
    return {
        "image": png(picture(3600, 3000, seed)),
        "options": options,
        "nms_threshold": ones,
        "confidence_threshold": 0 * ones,
        "output_mask": np.ones(1, np.bool_),
    }


def short_call(priority: str, seed: int) -> dict[str, Any]:
    options = json.dumps({"boxes": [[5, 5, 50, 40]], "priority": priority}).encode()
    return {"image": png(picture(seed=seed)), "options": options}


def test_more_than_may_wait_are_refused_at_once_and_counted(
    narrow: EmbeddedServer, activity: Activity
) -> None:
    before = activity.number("florence2_sam2_segment_refused_total", reason="queue full")
    ended = Ended()
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        pool.submit(ended.call, narrow, "holder", **long_call(1))
        time.sleep(0.3)
        for n in range(12):
            pool.submit(ended.call, narrow, f"call {n}", **short_call("interactive", n))
    refused = [
        name for name, error in ended.errors.items() if "StatusCode.UNAVAILABLE" in str(error.status())
    ]
    assert len(refused) >= 12 - QUEUE
    assert len(ended.names) == 13, "a call got no answer"
    full = [name for name in refused if "calls are waiting already" in str(ended.errors[name])]
    assert len(full) == 12 - QUEUE
    assert max(ended.seconds[name] for name in full) < 2, "a refusal was not immediate"
    assert until(
        lambda: (
            activity.number("florence2_sam2_segment_refused_total", reason="queue full")
            == before + 12 - QUEUE
        ),
        5,
    )


def test_who_waits_too_long_is_refused(narrow: EmbeddedServer, activity: Activity) -> None:
    ended, over = Ended(), threading.Event()

    def hold(number: int) -> None:
        inputs = long_call(20 + number)
        while not over.is_set():
            ended.call(narrow, "holder", **inputs)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for number in range(2):  # there is always one that works, and one that goes first
            pool.submit(hold, number)
        assert until(lambda: "holder" in ended.names, 20)
        ended.call(narrow, "waits", **short_call("bulk", 5))
        over.set()
    timed_out = f"no place was free within {QUEUE_SECONDS:g} s"
    assert timed_out in str(ended.errors["waits"])
    assert QUEUE_SECONDS - 0.1 < ended.seconds["waits"] < QUEUE_SECONDS + 2
    # On a slow machine the one in front may itself wait that long for the one that works.
    assert all(timed_out in str(error) for error in ended.errors.values())
    assert until(
        lambda: activity.number("florence2_sam2_segment_refused_total", reason="queue timeout") >= 1, 5
    )


def test_waiting_calls_are_shown_and_interactive_ones_come_first(
    narrow: EmbeddedServer, activity: Activity, access_log: Path
) -> None:
    def waited() -> float:
        return activity.number("florence2_sam2_segment_waiting_seconds_total", priority="bulk")

    def told() -> list[str]:
        """The calls that have ended, by the server's own account: this process may learn of several at once."""
        return [line["priority"] for line in logged(access_log)]

    ended, before, lines = Ended(), waited(), len(told())
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        pool.submit(ended.call, narrow, "holder", **long_call(2))
        time.sleep(0.3)
        pool.submit(ended.call, narrow, "bulk", **short_call("bulk", 100))
        time.sleep(0.1)
        pool.submit(ended.call, narrow, "interactive", **short_call("interactive", 101))
        shown = until(
            lambda: activity.number("florence2_sam2_segment_waiting", priority="bulk") == 1, QUEUE_SECONDS
        )
    assert shown, "the page did not show who waits"
    assert not ended.errors
    assert until(lambda: waited() > before + 0.5, 5)
    # A line of an earlier call may have come late, and stands before these.
    assert until(lambda: len(told()) >= lines + 3, 5)
    assert told()[-3:] == ["interactive", "interactive", "bulk"]


class Slow:
    """A web server that takes every connection and sends a byte a second."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_server(("127.0.0.1", port))
        self.connections: list[socket.socket] = []
        self._ended = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()
        threading.Thread(target=self._drip, daemon=True).start()

    def close(self) -> None:
        self._ended.set()
        self._socket.close()
        for connection in self.connections:
            connection.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 1000000\r\n\r\n"
            )
            self.connections.append(connection)

    def _drip(self) -> None:
        while not self._ended.wait(1):
            for connection in list(self.connections):
                try:
                    connection.sendall(b"x")
                except OSError:
                    self.connections.remove(connection)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


PORTS = [free_port()]


def test_slow_urls_take_nobodys_place(narrow: EmbeddedServer, activity: Activity) -> None:
    slow = Slow(PORTS[0])
    url = f"http://127.0.0.1:{PORTS[0]}/picture.png".encode()
    ended = Ended()
    try:
        with concurrent.futures.ThreadPoolExecutor(FETCHES + 4) as pool:
            for n in range(FETCHES):
                pool.submit(ended.call, narrow, f"slow {n}", image_url=url)
            assert until(lambda: len(slow.connections) == FETCHES, 3), "not all were fetched at once"
            for n in range(5):  # there is one place only
                ended.call(narrow, f"ordinary {n}", **short_call("interactive", n))
            ended.call(narrow, "one more", image_url=url)
            assert not [name for name in ended.names if name.startswith("slow")], "the slow ones have ended"
    finally:
        slow.close()
    assert not [name for name in ended.errors if name.startswith("ordinary")]
    assert f"{FETCHES} pictures are being fetched already" in str(ended.errors["one more"])
    assert ended.seconds["one more"] < 1
    for n in range(FETCHES):
        assert "image_url" in str(ended.errors[f"slow {n}"])
    assert until(lambda: activity.number("florence2_sam2_segment_fetching") == 0, 5)
