"""Client processes that are killed in the middle of a call, twenty of them, leave nothing behind in the server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from activity import Activity, Held
from bystanders import processes
from PIL import Image

from florence2_sam2.client import Segmenter
from florence2_sam2.server.launch.embedded import EmbeddedServer

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "pictures" / "demo.jpg"
# Starts a client process for each line that it reads, by a fork, so that only one process has to import. A client says
# its process id as soon as its call is under way; the call itself takes a second or more.
CLIENTS = """
import base64, json, os, signal, sys, threading, urllib.request
from florence2_sam2.client import Segmenter

grpc, http, file = sys.argv[1:]
signal.signal(signal.SIGCHLD, signal.SIG_IGN)

def say():
    os.write(1, b"%d\\n" % os.getpid())

def stream(picture):
    events = Segmenter(grpc).stream(picture, tiles=4, num_beams=8)
    next(events)
    say()
    list(events)

def call(picture):
    client = Segmenter(grpc)
    client.wait_until_ready()
    threading.Timer(0.2, say).start()
    client.segment(picture, tiles=4, num_beams=8)

def over_http(picture):
    image = base64.b64encode(picture).decode()
    body = json.dumps({"image_base64": image, "options": '{"tiles": 2, "num_beams": 8}'}).encode()
    threading.Timer(0.2, say).start()
    urllib.request.urlopen(f"http://{http}/v2/models/segment_http/generate", body).read()

for line in sys.stdin:
    if not os.fork():
        globals()[line.strip()](open(file, "rb").read() + os.urandom(8))
        os._exit(0)
"""
BATCH = ("stream", "call", "stream", "call", "over_http")
BATCHES = 4
# What may come and go by itself: Triton's and gRPC's own threads and their descriptors; less than one for each client.
SLACK = 10
# What allocators keep of five calls at once; half a picture for each client.
GROWN_MB = 180.0


def kill_a_batch(clients: subprocess.Popen[str]) -> None:
    """Start a batch of clients, and kill each when its call is under way."""
    assert clients.stdin is not None
    assert clients.stdout is not None
    for way in BATCH:
        print(way, file=clients.stdin, flush=True)
    for _ in BATCH:
        os.kill(int(clients.stdout.readline()), signal.SIGKILL)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """The demo's picture with 6 megapixels, 18 MB."""
    path = tmp_path / "large.jpg"
    Image.open(PICTURE).resize((3000, 2000)).save(path)
    return path


@pytest.fixture
def clients(server: EmbeddedServer, large: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", CLIENTS, server.grpc_address, server.http_address, str(large)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starting:
        yield starting
        starting.kill()


def test_twenty_killed_clients(server: EmbeddedServer, clients: subprocess.Popen[str]) -> None:
    pids = processes(server)
    activity = Activity(pids, server.metrics_address)

    def held() -> Held:
        assert activity.nothing_in_flight(20), "calls of dead clients are in flight"
        time.sleep(0.5)  # for what is closed a moment later
        remembered = activity.number("florence2_sam2_memory_bytes") / 2**20
        return Held.by(pids, server.shm_prefix, remembered)

    for _ in range(2):  # what grows with the first calls at once: threads that wait, memory kept for reuse
        kill_a_batch(clients)
    before = held()
    given_up = activity.cancelled("segment")
    for _ in range(BATCHES):
        kill_a_batch(clients)
    after = held()
    assert activity.cancelled("segment") - given_up >= 4 * BATCHES, "their calls were worked on to the end"
    assert after.descriptors <= before.descriptors + SLACK
    assert after.threads <= before.threads + SLACK
    assert after.megabytes < before.megabytes + GROWN_MB
    assert after.regions == before.regions
    with Segmenter(server.grpc_address) as client:
        assert client.segment(PICTURE).objects
