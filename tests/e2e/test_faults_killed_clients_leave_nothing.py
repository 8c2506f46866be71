"""Client processes that are killed in the middle of a call, twenty of them, leave nothing behind in the server."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from activity import Activity, Held
from bystanders import processes
from PIL import Image

from florence2_sam2.client import Segmenter
from florence2_sam2.server.launch.embedded import EmbeddedServer

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "pictures" / "demo.jpg"
# Says a line as soon as its call is under way; the call itself takes seconds.
STREAMING = """
import os, sys
from florence2_sam2.client import Segmenter
picture = open(sys.argv[3], "rb").read() + os.urandom(8)
for event in Segmenter(sys.argv[1]).stream(picture, tiles=4, num_beams=8):
    print("under way", flush=True)
"""
CALLING = """
import os, sys, threading
from florence2_sam2.client import Segmenter
picture = open(sys.argv[3], "rb").read() + os.urandom(8)
client = Segmenter(sys.argv[1])
client.wait_until_ready()
threading.Timer(0.2, print, ["under way"], {"flush": True}).start()
client.segment(picture, tiles=4, num_beams=8)
"""
OVER_HTTP = """
import base64, json, os, sys, threading, urllib.request
picture = base64.b64encode(open(sys.argv[3], "rb").read() + os.urandom(8)).decode()
body = json.dumps({"image_base64": picture, "options": '{"tiles": 4, "num_beams": 8}'}).encode()
threading.Timer(0.2, print, ["under way"], {"flush": True}).start()
urllib.request.urlopen(f"http://{sys.argv[2]}/v2/models/segment_http/generate", body).read()
"""
BATCH = (STREAMING, CALLING, STREAMING, CALLING, OVER_HTTP)
BATCHES = 4
# What may come and go by itself: Triton's and gRPC's own threads and their descriptors; less than one for each client.
SLACK = 10
# What allocators keep of five calls at once; half a picture for each client.
GROWN_MB = 180.0


def kill_one(server: EmbeddedServer, script: str, picture: Path) -> None:
    command = [sys.executable, "-c", script, server.grpc_address, server.http_address, str(picture)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"under way\n"
        assert client.poll() is None, "its call was over too early"
        client.kill()


def kill_a_batch(server: EmbeddedServer, picture: Path) -> None:
    with ThreadPoolExecutor(len(BATCH)) as pool:
        list(pool.map(lambda script: kill_one(server, script, picture), BATCH))


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """The demo's picture with 6 megapixels, 18 MB."""
    path = tmp_path / "large.jpg"
    Image.open(PICTURE).resize((3000, 2000)).save(path)
    return path


def test_twenty_killed_clients(server: EmbeddedServer, large: Path) -> None:
    pids = processes(server)
    activity = Activity(pids, server.metrics_address)

    def held() -> Held:
        assert activity.nothing_in_flight(20), "calls of dead clients are in flight"
        time.sleep(0.5)  # for what is closed a moment later
        remembered = activity.number("florence2_sam2_memory_bytes") / 2**20
        return Held.by(pids, server.shm_prefix, remembered)

    for _ in range(2):  # what grows with the first calls at once: threads that wait, memory kept for reuse
        kill_a_batch(server, large)
    before = held()
    given_up = activity.cancelled("segment")
    for _ in range(BATCHES):
        kill_a_batch(server, large)
    after = held()
    assert activity.cancelled("segment") - given_up >= 4 * BATCHES, "their calls were worked on to the end"
    assert after.descriptors <= before.descriptors + SLACK
    assert after.threads <= before.threads + SLACK
    assert after.megabytes < before.megabytes + GROWN_MB
    assert after.regions == before.regions
    with Segmenter(server.grpc_address) as client:
        assert client.segment(PICTURE).objects
