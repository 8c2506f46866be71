"""gRPC with TLS: clients that trust the authority are served, and where certificates are asked for those that have one.

The launcher itself needs none, and works as ever.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from calls import infer, picture, png, until
from serving import Served
from tritonclient.utils import InferenceServerException

from florence2_sam2.client import AsyncSegmenter, CannotConnect, Segmenter
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.launch.tls import Tls

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

FILES = Path(__file__).resolve().parents[1] / "data" / "tls"
TRUST: dict[str, Any] = {"root_certificates": FILES / "ca.pem"}
OWN: dict[str, Any] = {"private_key": FILES / "client.key", "certificate_chain": FILES / "client.pem"}


def names(address: str) -> list[str]:
    return [f"grpcs://{address}", f"grpcs://localhost:{address.rpartition(':')[2]}"]


def width(url: str, **files: Any) -> int:
    with Segmenter(url, retries=0, timeout=20, **files) as client:
        return client.segment(png(picture()), boxes=[[8, 8, 40, 40]]).width


def health(url: str, **flags: Path) -> tuple[int, str]:
    words = [word for name, path in flags.items() for word in (f"--tls-{name}", str(path))]
    done = subprocess.run(
        [sys.executable, "-m", "florence2_sam2", "health", "--url", url, *words],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tls=Tls(FILES / "server.pem", FILES / "server.key")) as started:
        yield started


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """As a user starts it, with a relative path, and looked after all the time."""
    served = Served(
        tmp_path_factory.mktemp("served"),
        *("--tls-cert", os.path.relpath(FILES / "server.pem"), "--tls-key", str(FILES / "server.key")),
        *("--tls-client-ca", str(FILES / "ca.pem"), "--health-seconds", "0.5", "--probe-seconds", "1"),
    )
    served.wait_ready()
    yield served
    served.end()


def test_whoever_trusts_the_authority_is_served(server: EmbeddedServer) -> None:
    for url in names(server.grpc_address):
        assert width(url, **TRUST) == 64

    async def call() -> int:
        async with AsyncSegmenter(names(server.grpc_address)[0], **TRUST) as client:
            return (await client.segment(png(picture()))).width

    assert asyncio.run(call()) == 64
    with Segmenter(names(server.grpc_address)[0], **TRUST) as client:
        assert list(client.stream(png(picture())))
        client.wait_until_ready(5)


def test_whoever_does_not_is_not(server: EmbeddedServer) -> None:
    with pytest.raises(CannotConnect):
        width(names(server.grpc_address)[0])
    with pytest.raises(CannotConnect):
        width(f"grpc://{server.grpc_address}")
    with pytest.raises(InferenceServerException):
        infer(server.grpc_address, "segment", {"image": png(picture())}, timeout=5)


def test_a_client_without_a_certificate_is_refused_where_one_is_asked_for(mutual: Served) -> None:
    for url in names(mutual.addresses["grpc"]):
        assert width(url, **TRUST, **OWN) == 64
    with pytest.raises(CannotConnect):
        width(names(mutual.addresses["grpc"])[0], **TRUST)
    with pytest.raises(CannotConnect):
        width(f"grpc://{mutual.addresses['grpc']}")


def test_the_command_health(server: EmbeddedServer, mutual: Served) -> None:
    code, line = health(names(server.grpc_address)[0], ca=FILES / "ca.pem")
    assert (code, "is well" in line) == (0, True), line
    url = names(mutual.addresses["grpc"])[0]
    own = {"ca": FILES / "ca.pem", "cert": FILES / "client.pem", "key": FILES / "client.key"}
    code, line = health(url, **own)
    assert (code, "is well" in line) == (0, True), line
    code, line = health(url, ca=FILES / "ca.pem")
    assert (code, "is not well" in line) == (1, True), line


def test_the_launcher_looks_after_it_without_a_certificate_and_shows_no_key(mutual: Served) -> None:
    address = f"http://{mutual.addresses['metrics']}/metrics"

    def probes() -> int:
        with urllib.request.urlopen(address, timeout=10) as page:
            found = re.search(rb'nv_inference_count{model="sam2",\S+ (\d+)', page.read())
        return int(found[1]) if found else 0

    count = probes()
    assert until(lambda: probes() > count, 60), "no real request has come"
    assert "starting again" not in mutual.text()
    assert f"gRPC     grpcs://{mutual.addresses['grpc']}" in mutual.text()
    log = Path(mutual.addresses["log"]).read_text("utf-8", "replace")
    command = Path(f"/proc/{mutual.process_of('tritonserver')}/cmdline").read_bytes().decode()
    key = command.partition("admin-key=")[2][:32]
    assert re.fullmatch("[0-9a-f]{32}", key)
    assert key not in log + mutual.text() + mutual.ready_file.read_text()


def test_it_ends_cleanly(mutual: Served) -> None:
    mutual.process.terminate()
    assert mutual.process.wait(40) == 0
    assert mutual.nothing_left()
