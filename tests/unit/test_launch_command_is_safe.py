"""The server listens where it was asked to, keeps its administration closed, and leaves the cores to the
models.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from florence2_sam2.cli import endpoints
from florence2_sam2.server.launch import command, processes
from florence2_sam2.server.launch.command import ALLOCATOR, Addresses, server_command, server_environment
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.launch.tls import Tls
from florence2_sam2.server.launch.wheel import STUB, assemble_backends, find_wheel
from florence2_sam2.server.settings import Settings

ADDRESSES = Addresses("127.0.0.1", "127.0.0.2", "127.0.0.3", 1, 2, 3)


def arguments(models: list[str] | None = None, tls: Tls | None = None) -> list[str]:
    return server_command(
        find_wheel(), Path("/b"), Path("/r"), ADDRESSES, "prefix_", "secret", models, tls=tls
    )


def test_every_endpoint_has_the_address_that_was_asked_for() -> None:
    given = arguments()
    for number, protocol in enumerate(("grpc", "http", "metrics"), 1):
        assert f"--{protocol}-address=127.0.0.{number}" in given
        assert f"--{protocol}-port={number}" in given


def test_an_address_of_ipv6_is_written_as_each_endpoint_reads_it() -> None:
    given = server_command(
        find_wheel(), Path("/b"), Path("/r"), Addresses("::1", "::1", "::", 1, 2, 3), "prefix_", "secret"
    )
    for word in ("--grpc-address=[::1]", "--http-address=ipv6:::1", "--metrics-address=ipv6:::"):
        assert word in given


def test_nothing_is_open_beyond_this_machine_unless_it_was_named() -> None:
    parser = argparse.ArgumentParser()
    endpoints.add_arguments(parser.add_argument_group("place"))
    default = parser.parse_args([])
    assert endpoints.warnings(default) == []
    for name in endpoints.NAMES:
        assert endpoints.is_loopback(getattr(default, f"{name}_host"))
        asked = parser.parse_args([f"--{name}-host", "0.0.0.0"])
        others = [getattr(asked, f"{other}_host") for other in endpoints.NAMES if other != name]
        assert set(others) == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *((host, True) for host in ("127.0.0.1", "127.8.8.8", "localhost", "::1")),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "192.0.2.1", "fe80::1", "my-machine")),
    ],
)
def test_what_is_loopback(host: str, loopback: bool) -> None:
    assert endpoints.is_loopback(host) == loopback


FILES = ["--tls-cert", "c", "--tls-key", "k"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--grpc-host", "0.0.0.0"],
            ["gRPC on 0.0.0.0 is not encrypted, and anyone who reaches it can use it"],
        ),
        (["--grpc-host", "0.0.0.0", *FILES], ["gRPC on 0.0.0.0: anyone who reaches it can use it"]),
        (["--grpc-host", "0.0.0.0", *FILES, "--tls-client-ca", "a"], []),
        (["--http-host", "::"], ["HTTP on ::", "chunked", "25.07", "proxy", '"Beyond loopback"']),
        (["--http-host", "::", *FILES, "--tls-client-ca", "a"], ["HTTP on :: is not encrypted"]),
        (["--metrics-host", "10.0.0.1"], ["the metrics on 10.0.0.1"]),
    ],
)
def test_what_is_open_is_warned_of(flags: list[str], said: list[str]) -> None:
    parser = argparse.ArgumentParser()
    endpoints.add_arguments(parser.add_argument_group("place"))
    found = endpoints.warnings(parser.parse_args(flags))
    assert len(found) == (1 if said else 0)
    assert [words for words in said if words not in found[0]] == []


def test_tls_is_grpcs_alone() -> None:
    def of_tls(tls: Tls | None) -> list[str]:
        return [row for row in arguments(tls=tls) if row not in arguments()]

    assert not [row for row in arguments() if "ssl" in row or "cert" in row]
    here = Path.cwd()  # Triton runs elsewhere
    files = [f"--grpc-server-cert={here}/c", f"--grpc-server-key={here}/k"]
    assert of_tls(Tls(Path("c"), Path("k"))) == ["--grpc-use-ssl=true", *files]
    mutual = Tls(Path("c"), Path("k"), Path("/a"))
    assert of_tls(mutual) == [
        "--grpc-use-ssl-mutual=true",
        *files,
        "--grpc-root-cert=/a",
    ]


def test_the_administration_needs_the_key_over_both_protocols() -> None:
    closed = [
        row.split("=", 1)[1]
        for row in arguments()
        if row.startswith(("--grpc-restricted", "--http-restricted"))
    ]
    assert len(closed) == 2
    for row in closed:
        protocols, key = row.split(":")
        assert set(protocols.split(",")) == {
            "shared-memory",
            "model-config",
            "model-repository",
            "trace",
            "logging",
        }
        assert key == f"{command.ADMIN_HEADER}=secret"


def test_models_see_no_headers_but_those_of_traces_and_request_ids() -> None:
    patterns = [row.split("=", 1)[1] for row in arguments() if "-header-forward-pattern=" in row]
    assert len(patterns) == 2
    for pattern in patterns:
        for name in ("traceparent", "Tracestate", "X-Request-Id"):
            assert re.search(pattern, name)
        for name in (
            "authorization",
            "x-api-key",
            "cookie",
            command.ADMIN_HEADER,
            "x-traceparent",
            "traceparent-x",
        ):
            assert not re.search(pattern, name)


def test_each_server_has_a_key_of_its_own() -> None:
    keys = {EmbeddedServer().admin_key for _ in range(3)}
    assert len(keys) == 3
    assert min(map(len, keys)) >= 32


def test_all_models_are_loaded_unless_some_are_named() -> None:
    assert [row for row in arguments() if row.startswith("--load-model")] == ["--load-model=*"]
    assert [row for row in arguments(models=["sam2"]) if row.startswith("--load-model")] == [
        "--load-model=sam2"
    ]


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", "127.0.0.1:1"), ("0.0.0.0", "127.0.0.1:1"), ("::1", "[::1]:1"), ("::", "[::1]:1")],
)
def test_an_address_that_a_client_can_use(host: str, expected: str) -> None:
    assert Addresses(host, "h", "m", 1, 2, 3).grpc == expected
    assert Addresses("g", host, "m", 2, 1, 3).http == expected
    assert Addresses("g", "h", host, 2, 3, 1).metrics == expected


def test_the_models_run_in_this_environment_with_few_threads() -> None:
    environment = server_environment(
        find_wheel(), Path("/env/bin"), Path("/lib"), Settings(threads=3), {"PATH": "/usr/bin", "HOME": "/h"}
    )
    assert environment["PATH"] == f"/env/bin{os.pathsep}/usr/bin"
    assert environment["LD_LIBRARY_PATH"].endswith(":/lib")
    assert environment["HOME"] == "/h"
    assert environment["FLORENCE2_SAM2_THREADS"] == "3"
    assert {
        environment[name] for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
    } == {"1"}


@pytest.mark.parametrize("name", ALLOCATOR)
def test_the_allocator_is_limited_unless_it_was_said_how(name: str) -> None:
    for given, taken in (({}, ALLOCATOR[name]), ({name: "8"}, "8")):
        environment = server_environment(find_wheel(), Path("/env/bin"), None, Settings(), given)
        assert environment[name] == taken


def test_the_backends_are_links_into_the_wheel(tmp_path: Path) -> None:
    folder = assemble_backends(find_wheel(), tmp_path) / "python"
    names = {path.name for path in folder.iterdir()}
    assert names == {STUB, "libtriton_python.so", "triton_python_backend_utils.py"}
    assert all(path.is_symlink() and path.exists() for path in folder.iterdir())
    assert os.access(folder / STUB, os.X_OK)


def test_a_process_that_has_ended_is_noticed() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert child in processes.children(os.getpid())
    assert processes.dead([child, os.getpid()]) == [child]
    os.waitpid(child, 0)
    assert processes.dead([child, os.getpid()]) == [child], "also when its parent has waited for it"


def test_a_models_process_is_known_by_its_first_argument(tmp_path: Path) -> None:
    model = tmp_path / "repository" / "florence2" / "1" / "model.py"
    model.parent.mkdir(parents=True)
    model.write_text("import sys\nsys.stdin.read()\n")
    started = [subprocess.Popen([sys.executable, str(model)], stdin=subprocess.PIPE) for _ in range(2)]
    other = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        expected, ends = {process.pid: "florence2" for process in started}, time.monotonic() + 10
        # For a moment after `exec` a process has no arguments yet.
        while not expected.items() <= (found := processes.models(os.getpid())).items():
            assert time.monotonic() < ends, found
            time.sleep(0.01)
        assert other.pid not in found
    finally:
        for process in (*started, other):
            process.communicate()
