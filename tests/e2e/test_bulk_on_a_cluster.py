"""`florence2-sam2 bulk --ray-address` on a Ray of several nodes, all on this machine, one of which is killed."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bulk_runs import Bulk, direct, drawn, finished, read, same_rows, temporary  # noqa: F401
from calls import alive, descendants, until

from florence2_sam2.server.launch.embedded import EmbeddedServer

pytestmark = [pytest.mark.server, pytest.mark.long, pytest.mark.timeout(900)]

PICTURES = drawn(48)
# A head without CPUs and two nodes with one each. With each line that it reads a node is killed.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
common = {"object_store_memory": 10**8}
cluster = Cluster(True, head_node_args={**common, "num_cpus": 0, "include_dashboard": False, "temp_dir": sys.argv[1]})
nodes = [cluster.add_node(**common, num_cpus=1) for _ in range(2)]
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(nodes.pop(), allow_graceful=False)
    print("killed", flush=True)
cluster.shutdown()
"""


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of its head, and the process that has it; gone afterwards. `folder`: for all its files."""
    own = folder / "ray"  # as Ray calls it below RAY_TMPDIR
    own.mkdir()
    said = folder / "said"
    with said.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER, str(own)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(folder)},
        )
    assert process.stdin is not None
    assert process.stdout is not None
    below: dict[int, str] = {}
    try:
        address = process.stdout.readline().strip()
        below = descendants(process.pid)
        assert address, said.read_text()
        yield address, process
    finally:
        below |= descendants(process.pid)
        process.stdin.close()
        process.wait(60)
        if not until(lambda: not any(map(alive, below)), 90):
            for pid in filter(alive, below):
                os.kill(pid, 9)


def test_a_node_is_killed(
    server: EmbeddedServer,
    tmp_path: Path,
    temporary: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    folder, out = tmp_path / "pictures", tmp_path / "out"
    folder.mkdir()
    for name, content in PICTURES.items():
        (folder / name).write_bytes(content)
    (temporary / "own").mkdir()
    with cluster(temporary) as (address, process):
        command = (folder, out, "--shard-size", 4, "--in-flight", 2, "--ray-address", address)
        run = Bulk(temporary / "own", server.grpc_address, *command)
        run.until_finished(out, 2)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "killed\n"
        before = finished(out)
        assert len(before) < len(PICTURES) // 4
        assert run.wait(600) == 1, run.said()
        run.leaves_nothing()
        assert before.items() <= finished(out).items()
        assert process.poll() is None  # the cluster is not the run's
    same_rows(read(out), direct(server.grpc_address, PICTURES))
    assert len(run.said().splitlines()) <= 5, run.said()


def test_no_cluster_is_said(server: EmbeddedServer, tmp_path: Path, temporary: Path) -> None:  # noqa: F811
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(PICTURES["000.jpg"])
    out = tmp_path / "out"
    run = Bulk(temporary, server.grpc_address, tmp_path / "pictures", out, "--ray-address", "127.0.0.1:9")
    assert run.wait() == 1
    why = "Ray at 127.0.0.1:9 cannot be reached: Connection refused"
    assert run.said().endswith(f"florence2-sam2 bulk: {why}\n")
    run.leaves_nothing()
