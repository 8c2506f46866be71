"""`florence2-sam2 bulk` on a real local Ray, against the real server: exactly one result for each picture, that of a
direct call, while workers, the run itself and the server are killed.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from bulk_runs import Bulk, direct, drawn, finished, read, same_rows, temporary  # noqa: F401
from calls import alive, until
from serving import Served

from florence2_sam2.server.launch.embedded import EmbeddedServer

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

COUNT = 60
PICTURES = drawn(COUNT)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bulk") / "pictures"
    folder.mkdir()
    for name, content in PICTURES.items():
        (folder / name).write_bytes(content)
    return folder


def test_the_run_is_killed_and_goes_on_and_then_a_worker_is_killed(
    server: EmbeddedServer,
    pictures: Path,
    tmp_path: Path,
    temporary: Path,  # noqa: F811
) -> None:
    out = tmp_path / "out"
    command = (pictures, out, "--shard-size", 4, "--in-flight", 2)
    first = Bulk(temporary, server.grpc_address, *command)
    first.until_finished(out, 2)
    second = Bulk(temporary, server.grpc_address, *command)
    assert second.wait() == 1
    assert f"another run is writing to it (process {first.process.pid} on " in second.said()
    first.kill()
    first.leaves_nothing()
    before = finished(out)
    assert 2 <= len(before) < COUNT // 4

    third = Bulk(temporary, server.grpc_address, *command)
    third.until_finished(out, len(before) + 2)
    worker = third.workers()[0]
    os.kill(worker, signal.SIGKILL)
    assert until(lambda: not alive(worker), 10)
    assert third.wait() == 1  # one picture is broken
    third.leaves_nothing()
    after = finished(out)
    assert {name: stamp for name, stamp in after.items() if name in before} == before
    assert len(after) == COUNT // 4

    found = read(out)
    assert [row["id"] for row in found] == sorted(PICTURES)
    same_rows(found, direct(server.grpc_address, PICTURES))
    (broken,) = (row for row in found if row["error"] is not None)
    assert (broken["id"], broken["error_code"]) == ("broken.jpg", "INVALID_ARGUMENT")
    assert broken["error"].startswith("image: is no picture that is known here")
    done_before = sum(row["id"] in {f"{number:03}.jpg" for number in range(COUNT)} for row in found)
    assert done_before == COUNT - 1
    said = third.said()
    assert f"1 failed, {4 * len(before)} were done before" in said
    assert said.endswith(f"1 of {COUNT} pictures failed: rows with an `error` in {out} say why\n")
    assert len(said.splitlines()) <= 5, said  # nothing of Ray's


@pytest.mark.long
def test_the_server_is_killed(
    pictures: Path,
    tmp_path: Path,
    temporary: Path,  # noqa: F811
) -> None:
    folder = tmp_path / "served"
    folder.mkdir()
    served = Served(folder)
    try:
        served.wait_ready()
        out = tmp_path / "out"
        address = served.addresses["grpc"]
        run = Bulk(temporary, address, pictures, out, "--shard-size", 8)
        for shards in (1, 4):
            run.until_finished(out, shards)
            server = served.process_of("tritonserver")
            os.kill(server, signal.SIGKILL)
            assert until(lambda pid=server: not alive(pid), 10)
        assert run.wait(600) == 1, run.said()
        run.leaves_nothing()
        same_rows(read(out), direct(address, PICTURES))
    finally:
        served.end()


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_run_that_is_stopped_cleans_up_and_goes_on(
    server: EmbeddedServer,
    pictures: Path,
    tmp_path: Path,
    temporary: Path,  # noqa: F811
    number: signal.Signals,
) -> None:
    out = tmp_path / "out"
    command = (pictures, out, "--shard-size", 4)
    first = Bulk(temporary, server.grpc_address, *command)
    first.until_finished(out, 3)
    first.process.send_signal(number)
    assert first.wait(60) == 130, first.said()
    first.leaves_nothing()
    assert "the same command goes on from here" in first.said()
    assert not (out / "_owner.json").exists()
    before = finished(out)
    assert Bulk(temporary, server.grpc_address, *command).wait() == 1
    assert before.items() <= finished(out).items()
    same_rows(read(out), direct(server.grpc_address, PICTURES))


@pytest.mark.long
def test_a_run_that_was_taken_for_dead_ends(
    server: EmbeddedServer,
    pictures: Path,
    tmp_path: Path,
    temporary: Path,  # noqa: F811
) -> None:
    """Its machine had stopped for minutes, say, and another run has begun in its place."""
    out = tmp_path / "out"
    run = Bulk(
        temporary, server.grpc_address, pictures, out, "--shard-size", 2, "--in-flight", 1, "--workers", 1
    )
    run.until_finished(out, 1)
    (out / "_owner.json").write_text('{"run": "another"}')
    assert run.wait(120) == 1
    wanted = f"florence2-sam2 bulk: {out} has been taken over by another run, which took this one for dead\n"
    assert run.said().endswith(wanted)
    assert (out / "_owner.json").read_text() == '{"run": "another"}'
    run.leaves_nothing()
    assert len(finished(out)) < COUNT // 2


@pytest.mark.long
def test_every_worker_is_killed_again_and_again(
    server: EmbeddedServer,
    pictures: Path,
    tmp_path: Path,
    temporary: Path,  # noqa: F811
) -> None:
    out = tmp_path / "out"
    run = Bulk(temporary, server.grpc_address, pictures, out, "--shard-size", 3)
    for shards in (2, 6, 10):
        run.until_finished(out, shards)
        for worker in run.workers():
            os.kill(worker, signal.SIGKILL)
    assert run.wait(600) == 1, run.said()
    run.leaves_nothing()
    same_rows(read(out), direct(server.grpc_address, PICTURES))
