"""The server listens where it was asked to, keeps its administration closed, and leaves the cores to the
models.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from florence2_sam2.server.launch import command, processes
from florence2_sam2.server.launch.command import Addresses, server_command, server_environment
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.launch.wheel import STUB, assemble_backends, find_wheel
from florence2_sam2.server.settings import Settings


def arguments(host: str = "127.0.0.1", models: list[str] | None = None) -> list[str]:
    addresses = Addresses(host, 1, 2, 3)
    return server_command(find_wheel(), Path("/b"), Path("/r"), addresses, "prefix_", "secret", models)


def test_every_endpoint_has_the_address_that_was_asked_for() -> None:
    for protocol in ("grpc", "http", "metrics"):
        assert f"--{protocol}-address=127.0.0.1" in arguments()


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
    assert Addresses(host, 1, 2, 3).grpc == expected


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
    assert child in processes.dead_children(os.getpid())
    os.waitpid(child, 0)
    assert child not in processes.dead_children(os.getpid())
