"""`kill -9` of any process of a server in the middle of calls: who is in flight is told soon, the server is back
without a human, and a client that tries again notices nothing but the time.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from calls import alive, descendants, shared_memory, until
from serving import BOX, LARGE, Served

from florence2_sam2.client import CannotConnect, Segmenter, SegmenterError, ServerOverloaded
from florence2_sam2.server.launch.supervisor import MAX_RESTARTS

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

PICTURE = (Path(__file__).resolve().parents[2] / "docs" / "pictures" / "demo.jpg").read_bytes()
LONG: dict[str, Any] = {"tiles": 4, "num_beams": 8}
ERROR_SECONDS = 3.0

Ask = Callable[[Segmenter], Any]


def unlike() -> bytes:
    """The same picture in other bytes: nothing is remembered of it."""
    return PICTURE + os.urandom(8)


def segment(client: Segmenter) -> Any:
    return client.segment(unlike(), num_beams=1)


def sam2(client: Segmenter) -> Any:
    return client.sam2(PICTURE, [[20, 20, 200, 200]])


def stream(client: Segmenter) -> Any:
    return list(client.stream(unlike(), num_beams=1))


def slow_segment(client: Segmenter) -> Any:
    return client.segment(unlike(), **LONG)


def slow_sam2(client: Segmenter) -> Any:
    return client.sam2(LARGE, BOX.repeat(60, axis=0))


def slow_stream(client: Segmenter) -> Any:
    return list(client.stream(unlike(), **LONG))


# Which calls need the process: an ordinary one, and one of seconds.
NEEDED_BY: dict[str, tuple[Ask, Ask]] = {
    "segment": (segment, slow_segment),
    "sam2_mask_decoder": (segment, slow_sam2),
    "tritonserver": (segment, slow_segment),
    "florence2": (segment, slow_segment),
    "florence2_vision_encoder": (segment, slow_segment),
    "sam2_image_encoder": (segment, slow_sam2),
    "sam2_preprocess": (sam2, slow_sam2),
    "sam2_postprocess": (sam2, slow_sam2),
    "segment_stream": (stream, slow_stream),
}
ALWAYS = ("segment", "sam2_mask_decoder", "tritonserver")
VICTIMS = [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.long) for name in NEEDED_BY]


class Servers:
    """One server at a time, each of which is killed no more often than its launcher starts it again."""

    def __init__(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self._factory = tmp_path_factory
        self._running: Served | None = None
        self._kills = 0

    def one_to_kill(self) -> Served:
        if self._running is None or self._kills == MAX_RESTARTS:
            self.end()
            self._running = Served(self._factory.mktemp("served"))
            self._running.wait_ready()
        self._kills += 1
        return self._running

    def end(self) -> None:
        if self._running is not None:
            self._running.end()
        self._running, self._kills = None, 0


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    kept = Servers(tmp_path_factory)
    yield kept
    kept.end()


class Steady:
    """A client that asks again and again. `seconds` has how long each call took."""

    def __init__(self, address: str, ask: Ask) -> None:
        self._client, self._ask = Segmenter(address, timeout=60), ask
        self._over = threading.Event()
        self.seconds: list[float] = []
        self.failures: list[str] = []

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            assert until(lambda: len(self.seconds) > 1, 30)
            yield
            count = len(self.seconds)
            assert until(lambda: len(self.seconds) > count + 1, 30), "it does not get any further"
        finally:
            self._over.set()
            thread.join()
            self._client.close()

    def _run(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            try:
                self._ask(self._client)
            except SegmenterError as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            self.seconds.append(time.monotonic() - began)


def back_after(began: float, ask: Callable[[], Any], seconds: float) -> float:
    """Seconds from `began` until `ask`, which does not try again by itself, has an answer."""
    while True:
        asked = time.monotonic()
        with contextlib.suppress(SegmenterError, urllib.error.URLError, ConnectionError):
            ask()
            return time.monotonic() - began
        assert asked - began < seconds, "the server is not back"
        time.sleep(0.1)


def nothing_old(served: Served, processes: set[int], regions: set[str]) -> bool:
    """Whether what the killed server was made of is gone, and the new one has as much."""
    now, held = descendants(served.process.pid), shared_memory(served.process.pid)
    gone = not any(map(alive, processes)) and not held & regions
    return gone and len(now) == len(processes) and len(held) <= len(regions)


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_killed_process(servers: Servers, victim: str) -> None:
    ask, slow = NEEDED_BY[victim]
    served = servers.one_to_kill()
    address = served.addresses["grpc"]
    processes, regions = set(descendants(served.process.pid)), shared_memory(served.process.pid)
    steady = Steady(address, ask)
    ended: dict[str, float] = {}

    def timed(name: str, client: Segmenter) -> Any:
        try:
            return slow(client)
        finally:
            ended[name] = time.monotonic()

    with (
        Segmenter(address, retries=0, timeout=30) as plain,
        Segmenter(address, timeout=60) as patient,
        concurrent.futures.ThreadPoolExecutor() as pool,
        steady.asking(),
    ):
        ask(patient)  # so that it knows the server
        told, kept = (
            pool.submit(timed, name, client) for name, client in (("told", plain), ("kept", patient))
        )
        time.sleep(0.3)
        assert not told.done(), "its call was over too early"
        os.kill(served.process_of(victim), signal.SIGKILL)
        began = time.monotonic()
        error = told.exception()
        back = back_after(
            began, lambda: ask(plain), served.restart_seconds
        )  # on the channel that has seen it die
        print(f"{victim}: told after {ended['told'] - began:.2f} s, back after {back:.1f} s")
        assert isinstance(error, CannotConnect | ServerOverloaded), repr(error)
        assert error.message.startswith((f"no connection to grpc://{address}: ", "a part of "))
        assert not set("/'") & set(error.message.replace("grpc://", "")), "a path, or a stub's name"
        assert ended["told"] - began < ERROR_SECONDS
        assert back < served.restart_seconds
        kept.result()
    print(f"longest call of a client that tries again: {max(steady.seconds):.1f} s")
    assert not steady.failures
    assert until(lambda: nothing_old(served, processes, regions), 5)


@pytest.mark.long
def test_the_front_for_http(servers: Servers) -> None:
    served = servers.one_to_kill()
    body = json.dumps({"image_base64": base64.b64encode(PICTURE).decode()}).encode()

    def ask() -> Any:
        url = f"http://{served.addresses['http']}/v2/models/segment_http/generate"
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=20) as answer:
            return json.loads(answer.read())

    ask()
    os.kill(served.process_of("segment_http"), signal.SIGKILL)
    assert back_after(time.monotonic(), ask, served.restart_seconds) < served.restart_seconds
