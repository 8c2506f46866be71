"""A process that lives and does nothing is noticed, whether or not somebody waits for it; much work is no reason."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from calls import infer, listening, until
from held import held, repository_to_hold
from serving import LARGE, Served
from tritonclient.utils import InferenceServerException

from florence2_sam2.server.launch.supervisor import MAX_RESTARTS

pytestmark = [pytest.mark.server, pytest.mark.timeout(180)]

HUNG_SECONDS = 8.0
BACK_SECONDS = 60.0
# All of them loopback, and none of another's.
HOSTS = {"grpc": "127.0.0.2", "http": "127.0.0.3", "metrics": "127.0.0.4"}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repository_to_hold(tmp_path_factory.mktemp("models"), "florence2", "sam2_mask_decoder")


class Servers:
    """One server at a time, started again no more often than its launcher does that, with some to spare."""

    def __init__(self, factory: pytest.TempPathFactory, repository: Path) -> None:
        self._factory, self._repository = factory, repository
        self.running: Served | None = None

    def current(self) -> Served:
        if self.running is not None and len(restarts(self.running)) < MAX_RESTARTS - 2:
            return self.running
        self.end()
        watch = {"health": "0.5", "probe": "1", "hung": f"{HUNG_SECONDS:g}"}
        flags = [word for name, seconds in watch.items() for word in (f"--{name}-seconds", seconds)]
        flags += [word for name, host in HOSTS.items() for word in (f"--{name}-host", host)]
        folder = self._factory.mktemp("served")
        self.running = Served(folder, "--repository", str(self._repository), *flags)
        self.running.wait_ready()
        return self.running

    def end(self) -> None:
        if self.running is not None:
            self.running.end()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Servers]:
    kept = Servers(tmp_path_factory, repository)
    yield kept
    kept.end()


@pytest.fixture
def served(servers: Servers) -> Served:
    return servers.current()


def restarts(served: Served) -> list[str]:
    """Why it was started again, each time."""
    lines = served.text().splitlines()
    return [line.removeprefix("florence2-sam2: ") for line in lines if "starting again" in line]


@contextlib.contextmanager
def stopped(served: Served, model: str) -> Iterator[None]:
    """The model's process, for good."""
    os.kill(served.process_of(model), signal.SIGSTOP)
    yield


def reason(served: Served, hanging: AbstractContextManager[None], noticed_after: float) -> str:
    """Why the server was started again, once it is back.

    How soon it is back is in `test_faults_dead_processes_are_replaced.py`.

    Args:
        noticed_after: seconds, on a machine with nothing else to do.
    """
    before, back = len(restarts(served)), served.text().count("ready again")
    with hanging:
        began = time.monotonic()
        assert until(lambda: len(restarts(served)) > before, 3 * noticed_after), served.text()
        print(f"noticed after {time.monotonic() - began:.1f} s")
    assert until(lambda: served.text().count("ready again") > back, BACK_SECONDS), served.text()
    assert served.segment()["result"].size == 1
    return restarts(served)[-1]


def test_each_endpoint_listens_where_it_was_told_to(served: Served) -> None:
    found = {(host[-8:], port) for host, port in listening(served.process_of("tritonserver"))}
    told = {name: served.addresses[name].rpartition(":") for name in HOSTS}
    assert {name: host for name, (host, _, _) in told.items()} == HOSTS
    assert found == {(f"0{host[-1]}00007F", int(port)) for host, _, port in told.values()}
    assert "warning" not in served.text()


@pytest.mark.long
def test_much_work_is_no_reason(served: Served) -> None:
    """More calls than the queue takes, for longer than a server may stand still."""
    before = len(restarts(served))
    end = time.monotonic() + 2 * HUNG_SECONDS
    boxes = json.dumps({"boxes": [[200, 200, 1000, 900]] * 20}).encode()

    def call(number: int) -> int:
        answered = 0
        while time.monotonic() < end:
            inputs = {"image": LARGE + bytes([number]), "options": boxes}
            try:
                infer(served.addresses["grpc"], "segment", inputs, ["result"])
                answered += 1
            except InferenceServerException:
                time.sleep(0.1)
        return answered

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        assert sum(pool.map(call, range(50))) > 10
    assert restarts(served)[before:] == []


@pytest.mark.parametrize("model", ["florence2", "sam2_mask_decoder"])
def test_a_stopped_process(served: Served, model: str) -> None:
    """Triton says after a second that such a one is not healthy; of a leaf only a real request hears that."""
    assert model in reason(served, stopped(served, model), 3 * (2 + 1) + 1)


@pytest.mark.long
def test_a_decoder_that_hangs(served: Served, repository: Path) -> None:
    """`florence2` answers no health request and no other."""
    assert "florence2" in reason(served, held(repository, "florence2"), 1 + 3 * (5 + 1))


@pytest.mark.long
def test_an_idle_leaf_that_hangs(served: Served, repository: Path) -> None:
    """Health requests do not reach it; a real one does."""
    told = reason(served, held(repository, "sam2_mask_decoder"), 1 + HUNG_SECONDS + 1)
    limit = f"{HUNG_SECONDS:g} s"
    assert told.startswith(
        f"a request to sam2 had no answer within {limit}, and sam2_mask_decoder has answered nobody; starting again"
    )


def test_a_leaf_that_hangs_while_calls_wait_for_it(served: Served, repository: Path) -> None:
    """Of a server that is at work no real request is needed."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        calls = [pool.submit(served.slow_segment) for _ in range(4)]
        time.sleep(0.5)
        told = reason(served, held(repository, "sam2_mask_decoder"), HUNG_SECONDS + 2)
        ended = [call.exception() for call in calls]
    # The first of them may have had its masks before.
    assert sum(isinstance(error, InferenceServerException) for error in ended) >= 3
    # A real request that was under way when the calls came is not answered either, and that may be known first.
    assert re.match(
        "sam2_mask_decoder has answered nothing for |a request to .*, and sam2_mask_decoder has answered nobody",
        told,
    ), told


def test_nothing_of_it_is_left(servers: Servers) -> None:
    served = servers.running or servers.current()
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(40) == 0
    assert served.nothing_left()
    assert not Path(served.addresses["log"]).exists()
