"""Health requests are answered by three processes within milliseconds, past a full queue, and counted nowhere."""

from __future__ import annotations

import base64
import concurrent.futures
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from activity import Activity
from bystanders import processes
from calls import infer, picture, png, until
from held import held, repository_to_hold
from serving import BOX, LARGE
from tritonclient.utils import InferenceServerException

from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.settings import Settings

pytestmark = pytest.mark.server

FIELDS = {"healthy", "in_flight", "waiting", "answered", "progress", "waits_for", "decoder_still"}
SHOWN_SECONDS = 2.0  # until a number is on the page of metrics
LIMIT_SECONDS = 2.0  # it takes 10 ms where the cores are free
# The model to ask, and the output that the answer comes in.
MODELS = {"segment_http": "result", "segment_stream": "event", "segment": "result", "florence2": "info"}


def over_http(address: str, model: str = "segment_http", **fields: Any) -> dict[str, Any]:
    body = json.dumps(fields or {"health": True}).encode()
    request = urllib.request.Request(f"http://{address}/v2/models/{model}/generate", body)
    with urllib.request.urlopen(request, timeout=60) as answer:
        told: dict[str, Any] = json.loads(json.load(answer)[MODELS[model]])
        return told


def error_over_http(address: str, **fields: Any) -> str:
    with pytest.raises(urllib.error.HTTPError) as refused:
        over_http(address, **fields)
    return str(json.load(refused.value)["error"])


def over_grpc(address: str, model: str) -> dict[str, Any]:
    client = grpc.InferenceServerClient(address)
    try:
        wanted = [grpc.InferRequestedOutput(MODELS[model])]
        answer = client.infer(model, [], outputs=wanted, parameters={"health": True}, client_timeout=60)
        told: dict[str, Any] = json.loads(answer.as_numpy(MODELS[model])[0])
        return told
    finally:
        client.close()


def command(*arguments: str) -> tuple[int, str]:
    """The exit code of `florence2-sam2 health`, and its one line."""
    done = subprocess.run(
        [sys.executable, "-m", "florence2_sam2", "health", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    (line,) = (done.stdout + done.stderr).splitlines()
    assert bool(done.stdout) == (done.returncode == 0)
    return done.returncode, line


@pytest.mark.parametrize("model", ["segment_http", "segment_stream"])
def test_over_http(server: EmbeddedServer, model: str) -> None:
    told = over_http(server.http_address, model)
    assert told.keys() == FIELDS
    assert told["healthy"] is True


@pytest.mark.parametrize("model", ["segment", "florence2"])
def test_over_grpc(server: EmbeddedServer, model: str) -> None:
    told = over_grpc(server.grpc_address, model)
    assert told.keys() == FIELDS
    assert told["healthy"] is True


@pytest.mark.parametrize(
    "fields", [{"health": False}, {"health": "yes"}, {"health": 1}, {"health": True, "caption": "a cup"}]
)
def test_half_a_health_request_is_refused(server: EmbeddedServer, fields: dict[str, Any]) -> None:
    assert error_over_http(server.http_address, **fields) == (
        "health: must be true, and goes with no other field"
    )


def test_requests_are_counted_and_questions_are_not(server: EmbeddedServer) -> None:
    activity = Activity(processes(server), server.metrics_address)
    time.sleep(SHOWN_SECONDS)
    before = over_grpc(server.grpc_address, "segment")
    shown = activity.number("florence2_sam2_requests_total")
    for _ in range(20):
        over_http(server.http_address)
    assert over_grpc(server.grpc_address, "segment")["answered"] == before["answered"]
    infer(server.grpc_address, "segment", {"image": png(picture(seed=91))}, ["result"])
    with pytest.raises(InferenceServerException):
        infer(server.grpc_address, "segment", {"image": b"no picture"}, ["result"])
    after = over_grpc(server.grpc_address, "segment")
    assert after["answered"] == before["answered"] + 2
    assert after["progress"] > before["progress"] + 2, "models that answered in between are progress too"
    assert (after["in_flight"], after["waiting"], after["waits_for"]) == (0, 0, {})
    # The call, those of `florence2` that it made, and the refused one: nothing of the questions.
    time.sleep(SHOWN_SECONDS)
    assert activity.number("florence2_sam2_requests_total") - shown <= 5


def test_a_full_queue_is_no_illness(server: EmbeddedServer) -> None:
    """The queue is full of long calls, over HTTP too; each question is answered at once, and says so."""
    settings = Settings()
    room = settings.max_in_flight + settings.max_queue
    options = json.dumps({"boxes": np.repeat(BOX, 6, axis=0).tolist(), "formats": ["rle"]})
    over = threading.Event()

    def call(number: int) -> None:
        model, image = ("segment", "image") if number % 2 else ("segment_http", "image_base64")
        data = LARGE + bytes([number])
        inputs = {image: data if number % 2 else base64.b64encode(data), "options": options.encode()}
        while not over.is_set():
            try:
                infer(server.grpc_address, model, inputs, ["result"])
            except InferenceServerException as error:
                assert "the server is full" in str(error.message())
                time.sleep(0.05)

    with concurrent.futures.ThreadPoolExecutor(room + 20) as pool:
        calls = [pool.submit(call, number) for number in range(room + 20)]
        try:
            most = 0
            until(lambda: over_grpc(server.grpc_address, "segment")["waiting"] == settings.max_queue, 20)
            took = []
            for _ in range(10):
                began = time.monotonic()
                told = over_http(server.http_address)
                took.append(time.monotonic() - began)
                most = max(most, told["waiting"])
                assert told["healthy"] is True
                assert told["in_flight"] >= told["waiting"]
        finally:
            over.set()
        for done in calls:
            done.result()
    assert most == settings.max_queue, "the queue was never full"
    assert max(took) < LIMIT_SECONDS


def test_the_command(server: EmbeddedServer) -> None:
    for url in (f"http://{server.http_address}", f"grpc://{server.grpc_address}"):
        code, line = command("--url", url)
        assert (code, line.startswith(f"{url} is well: 0 in flight, 0 waiting, ")) == (0, True), line
        before = over_grpc(server.grpc_address, "segment")["answered"]
        code, line = command("--url", url, "--deep")
        assert (code, "; a box and a caption after " in line) == (0, True), line
        assert over_grpc(server.grpc_address, "segment")["answered"] == before + 2


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "grpc://127.0.0.1:9"])
def test_the_command_without_a_server(url: str) -> None:
    assert command("--url", url) == (
        1,
        f"{url} is not well: no server answers there (Connection refused)",
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--url", "ftp://127.0.0.1"], "speaks gRPC, not ftp"),
        (["--url", "http://127.0.0.1:9?x"], "write http://host:8000"),
        (["--url", "http://127.0.0.1:9", "--tls-ca", "F"], "https:// only"),
        (["--tls-cert", "F"], "--tls-cert and --tls-key go together"),
        (["--timeout", "0"], "--timeout: 0 s are no time"),
    ],
)
def test_the_command_used_wrongly(arguments: list[str], words: str) -> None:
    code, line = command(*arguments)
    assert code == 2
    assert words in line


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server of which nobody looks after the processes."""
    repository = repository_to_hold(tmp_path_factory.mktemp("models"), "florence2", "segment")
    started = EmbeddedServer(repository)
    try:
        started.start()
        started.wait_ready()
        yield started
    finally:
        started.kill()  # Triton waits half a minute for a process that was stopped
        shutil.rmtree(started.log_path.parent)  # a killed server keeps its log


NOT_WELL = {
    "florence2": "UNAVAILABLE: florence2 has not answered for 5 s whether it is well",
    "segment": "UNAVAILABLE: segment has not answered for 7 s whether it is well",
}


@pytest.mark.parametrize("model", ["florence2", pytest.param("segment", marks=pytest.mark.long)])
def test_a_model_that_hangs_is_named_until_it_goes_on(own: EmbeddedServer, model: str) -> None:
    def error(_: int = 0) -> str:
        return error_over_http(own.http_address, health=True)

    with held(own.repository, model):
        time.sleep(1.5)
        url = f"http://{own.http_address}"
        with concurrent.futures.ThreadPoolExecutor(101) as pool:  # more than there are threads for calls
            shown = pool.submit(command, "--url", url)
            assert set(pool.map(error, range(100))) == {NOT_WELL[model]}
            assert shown.result() == (1, f"{url} is not well: {NOT_WELL[model]}")
    assert until(lambda: over_http(own.http_address)["healthy"], 10)
    assert over_http(own.http_address)["in_flight"] == 0
    assert infer(own.grpc_address, "segment", {"image": png(picture())}, ["result"])["result"].size == 1


def test_a_process_that_was_stopped_is_named(own: EmbeddedServer) -> None:
    """Triton itself says it of such a one after a second, as of one that has died. (It must not go on afterwards: that
    takes Triton down.)"""
    (pid,) = processes(own, "/florence2/1/model.py")
    os.kill(pid, signal.SIGSTOP)
    code, line = command("--url", f"http://{own.http_address}")
    assert code == 1
    assert "UNAVAILABLE: " in line
    assert "florence2" in line
