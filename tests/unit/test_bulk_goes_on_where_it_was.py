"""`bulk` without Ray, against a peer: what is finished is never done again, and nothing is forgotten, whatever dies."""

from __future__ import annotations

import io
import json
import os
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import grpc
import pyarrow.parquet as pq
import pytest
from bulk_inputs import without_ray  # noqa: F401
from bulk_parts import png
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kserve_peer import ANSWER, Peer, Refusal, serving

from florence2_sam2.bulk import begin, cluster, worker
from florence2_sam2.bulk import run as running
from florence2_sam2.bulk.begin import Options
from florence2_sam2.bulk.errors import BulkError, WrongUsage
from florence2_sam2.bulk.plan import Plan

pytestmark = pytest.mark.usefixtures("without_ray")
COUNT = 11


@pytest.fixture
def peer() -> Iterator[Peer]:
    with serving() as opened:
        yield opened


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(COUNT):
        (folder / f"{number:02}.png").write_bytes(png(number))
    return folder


def run(peer: Peer, pictures: Path, out: Path, **changes: Any) -> running.State:
    fields: dict[str, Any] = {"shard_size": 4, "patience": 0.5, **changes}
    options = Options(str(pictures), str(out), (peer.address,), **fields)
    return running.run(options, lambda _: None, lambda _: None, lambda _: None)


def asked(peer: Peer) -> Counter[bytes]:
    """How often each picture of the folder was asked about."""
    sent = [peer.inputs(index)["image"][2] for index in range(len(peer.received))]
    known = {png(number): number for number in range(COUNT)}
    return Counter(f"{known[picture]:02}.png" for picture in sent if picture in known)  # type: ignore[misc]


def rows(out: Path) -> list[dict[str, Any]]:
    read: list[dict[str, Any]] = pq.read_table(out).to_pylist()
    return read


def ids(out: Path) -> list[str]:
    return [row["id"] for row in rows(out)]


NAMES = [f"{number:02}.png" for number in range(COUNT)]


def test_all_at_once(peer: Peer, pictures: Path, tmp_path: Path) -> None:
    state = run(peer, pictures, tmp_path / "out")
    assert state.is_complete
    assert ids(tmp_path / "out") == NAMES
    assert asked(peer) == Counter(NAMES)
    assert sorted(os.listdir(tmp_path / "out")) == [
        "_manifest.json",
        "_pictures.parquet",
        "_plan.json",
        *(f"shard-00000{number}.parquet" for number in range(3)),
    ]
    manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
    assert (manifest["complete"], manifest["pictures"], manifest["objects"]) == (True, COUNT, COUNT)
    assert {tuple(one.values()) for one in manifest["shards"].values()} == {(4, 0, 4), (3, 0, 3)}
    priorities = {json.loads(peer.inputs(index)["options"][2])["priority"] for index in range(COUNT)}
    assert priorities == {"bulk"}


def test_a_finished_run_asks_nobody(peer: Peer, pictures: Path, tmp_path: Path) -> None:
    run(peer, pictures, tmp_path / "out")
    before = len(peer.received)
    for path in pictures.iterdir():
        path.unlink()
    state = run(peer, pictures, tmp_path / "out")
    assert (state.before, state.is_complete, len(peer.received)) == (COUNT, True, before)


def stamps(out: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.glob("shard-*")}


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(left=st.sets(st.integers(0, 2)), has_manifest=st.booleans(), unfinished=st.booleans())
def test_only_what_is_missing_is_done(
    peer: Peer,
    pictures: Path,
    tmp_path_factory: pytest.TempPathFactory,
    left: set[int],
    has_manifest: bool,
    unfinished: bool,
) -> None:
    out = tmp_path_factory.mktemp("run") / "out"
    run(peer, pictures, out)
    whole = rows(out)
    for number in left:
        (out / f"shard-{number:06}.parquet").unlink()
        if unfinished:
            (out / f".tmp-shard-{number:06}.parquet-0").write_bytes(b"PAR1")
    if not has_manifest:
        (out / "_manifest.json").unlink()
    before = stamps(out)
    peer.received.clear()
    state = run(peer, pictures, out)
    assert state.is_complete
    assert state.before == sum(len(NAMES[number * 4 : number * 4 + 4]) for number in {0, 1, 2} - left)
    assert asked(peer) == Counter(name for number in left for name in NAMES[number * 4 : number * 4 + 4])
    assert {name: stamp for name, stamp in stamps(out).items() if name in before} == before
    assert rows(out) == whole
    assert not list(out.glob(".tmp-*"))


def test_a_shard_that_was_taken_away_is_counted_anew(
    peer: Peer, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the run dies as soon as it has done it again."""
    out = tmp_path / "out"
    run(peer, pictures, out)
    (out / "shard-000001.parquet").unlink()
    (pictures / "05.png").unlink()
    in_turn = cluster.outcomes

    def dies(*arguments: Any) -> Any:
        next(in_turn(*arguments))
        monkeypatch.setattr(running, "_save", lambda *_: None)
        raise BulkError("dead")
        yield

    with monkeypatch.context() as dying:
        dying.setattr(cluster, "outcomes", dies)
        with pytest.raises(BulkError, match="dead"):
            run(peer, pictures, out)
    state = run(peer, pictures, out)
    assert (state.is_complete, state.total("failed"), state.total("objects")) == (True, 1, COUNT - 1)


def test_pictures_that_have_come_since_are_not_of_this_run(
    peer: Peer, pictures: Path, tmp_path: Path
) -> None:
    run(peer, pictures, tmp_path / "out")
    (tmp_path / "out" / "shard-000000.parquet").unlink()
    (pictures / "00-new.png").write_bytes(png(99))
    run(peer, pictures, tmp_path / "out")
    assert ids(tmp_path / "out") == NAMES


def failing(
    code: grpc.StatusCode, message: str, names: set[str]
) -> Callable[[Any], tuple[dict[str, Any], bytes]]:
    wrong = {png(int(name[:2])) for name in names}

    def reply(request: Any) -> tuple[dict[str, Any], bytes]:
        if request.raw_input_contents[0][4:] in wrong:
            raise Refusal(code, message)
        return ANSWER, b""

    return reply


def test_a_bad_picture_is_a_row_and_is_counted(peer: Peer, pictures: Path, tmp_path: Path) -> None:
    peer.reply = failing(grpc.StatusCode.INVALID_ARGUMENT, "image: is no picture", {"05.png"})
    (pictures / "07.png").write_bytes(b"")
    state = run(peer, pictures, tmp_path / "out")
    assert state.is_complete
    assert (state.total("pictures"), state.total("failed"), state.total("objects")) == (COUNT, 2, COUNT - 2)
    bad = {row["id"]: (row["error_code"], row["error"]) for row in rows(tmp_path / "out") if row["error"]}
    assert bad == {
        "05.png": ("INVALID_ARGUMENT", "image: is no picture"),
        "07.png": ("INVALID_ARGUMENT", "the file is empty"),
    }


@pytest.mark.parametrize("what", ["models", "settings"])
def test_a_server_that_answers_otherwise_in_the_middle_ends_the_run(
    peer: Peer, pictures: Path, tmp_path: Path, what: str
) -> None:
    other = json.loads(json.dumps(ANSWER))
    if what == "models":
        other["models"]["florence2"]["sha256"] = "ef"
    else:
        other["parameters"]["area_threshold"] = 0.4
    peer.reply = lambda request: (other if request.raw_input_contents[0][4:] == png(6) else ANSWER, b"")
    state = run(peer, pictures, tmp_path / "out")
    assert not state.is_complete
    assert state.stopped is not None
    assert state.stopped.startswith(f"a server answers with other {what} than this run began with")
    assert ids(tmp_path / "out") == NAMES[:4]  # nothing of the shard is kept
    peer.reply = lambda _: (ANSWER, b"")
    run(peer, pictures, tmp_path / "out")
    assert ids(tmp_path / "out") == NAMES


def test_no_server_ends_the_run_and_it_goes_on_later(peer: Peer, pictures: Path, tmp_path: Path) -> None:
    with serving() as gone:
        pass
    with pytest.raises(BulkError, match="no server answers at"):
        run(gone, pictures, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    count = 0

    def reply(request: Any) -> tuple[dict[str, Any], bytes]:
        nonlocal count
        count += 1
        if count > 6:
            raise Refusal(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses")
        return ANSWER, b""

    peer.reply = reply
    state = run(peer, pictures, tmp_path / "out", in_flight=1)
    assert state.stopped is not None
    assert re.match(r"no server has answered for 0 s \(no connection to ", state.stopped)
    assert state.left() == [1, 2]
    count = -100
    assert run(peer, pictures, tmp_path / "out").is_complete
    assert ids(tmp_path / "out") == NAMES


def test_files_that_cannot_be_read_now_keep_their_shard_only_from_being_done(
    peer: Peer, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("florence2_sam2.bulk.shard._FIRST_PAUSE", 0.001)
    (pictures / "05.png").unlink()
    (pictures / "05.png").symlink_to("05.png")  # a loop
    state = run(peer, pictures, tmp_path / "out")
    assert state.broken == {1: "the picture 05.png cannot be read: Too many levels of symbolic links"}
    assert state.left() == [1]
    (pictures / "05.png").unlink()
    (pictures / "05.png").write_bytes(png(5))
    assert run(peer, pictures, tmp_path / "out").is_complete
    assert ids(tmp_path / "out") == NAMES


def test_files_of_another_run_are_not_taken_for_this_ones(peer: Peer, pictures: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(peer, pictures, tmp_path / name)
    (tmp_path / "one" / "shard-000001.parquet").replace(tmp_path / "two" / "shard-000001.parquet")
    (tmp_path / "two" / "_manifest.json").unlink()
    with pytest.raises(BulkError, match=r"shard-000001\.parquet in .* is of another run"):
        run(peer, pictures, tmp_path / "two")
    (tmp_path / "two" / "shard-000001.parquet").write_bytes(b"none")
    with pytest.raises(BulkError, match=r"shard-000001\.parquet in .* was not written by this command"):
        run(peer, pictures, tmp_path / "two")


def test_a_worker_that_comes_too_late_leaves_the_file_alone(
    peer: Peer, pictures: Path, tmp_path: Path
) -> None:
    """Ray may hand out a shard twice: its first worker is cut off, not dead."""
    out = tmp_path / "out"
    run(peer, pictures, out)
    plan = Plan.load(running.Folder(str(out)))
    assert plan is not None
    late = worker.Worker(worker.Job(str(out), plan, (peer.address,)))
    before, calls = stamps(out), len(peer.received)
    try:
        assert late.shard(1) == worker.Outcome(1, 4, 0, 4)
        assert (stamps(out), len(peer.received)) == (before, calls)
        content = (out / "shard-000001.parquet").read_bytes()
        (out / "shard-000001.parquet").unlink()
        peer.reply = lambda _: ((out / "shard-000001.parquet").write_bytes(content), (ANSWER, b""))[1]
        assert late.shard(1) == worker.Outcome(1, 4, 0, 4)
        assert (out / "shard-000001.parquet").read_bytes() == content
    finally:
        late.close()


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"settings": {"area_threshold": 0.4}}, "area_threshold none, not 0.4"),
    ({"settings": {"formats": ("rle",)}}, r'formats \[\], not \["rle"\]'),
    ({"form": "coco"}, '--form "parquet", not "coco"'),
    ({"shard_size": 5}, "--shard-size 4, not 5"),
    ({"kind": "parquet"}, '--input "pictures", not "parquet"'),
    ({"max_bytes": 7}, "--max-image-bytes 33554432, not 7"),
]


@pytest.mark.parametrize(("changes", "message"), CHANGES)
def test_other_settings_are_another_run(
    peer: Peer, pictures: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    run(peer, pictures, tmp_path / "out")
    with pytest.raises(WrongUsage, match=rf"/out was begun with {message}; choose another OUTPUT"):
        run(peer, pictures, tmp_path / "out", **changes)
    assert run(peer, pictures, tmp_path / "out", shard_size=None, form="parquet", kind="pictures").is_complete


def test_another_input_or_other_models_are_another_run(peer: Peer, pictures: Path, tmp_path: Path) -> None:
    run(peer, pictures, tmp_path / "out")
    (tmp_path / "out" / "shard-000000.parquet").unlink()
    with pytest.raises(WrongUsage, match=r'INPUT .*/pictures", not .*/elsewhere'):
        run(peer, tmp_path / "elsewhere", tmp_path / "out")
    other = json.loads(json.dumps(ANSWER))
    other["models"]["sam2"]["checkpoint"] = "large"
    peer.reply = lambda _: (other, b"")
    with pytest.raises(WrongUsage, match=r'was begun with sam2 \{"checkpoint": "small".*, not .*"large"'):
        run(peer, pictures, tmp_path / "out")
    assert not (tmp_path / "out" / "shard-000000.parquet").exists()


def test_numbers_that_were_float32_are_the_same(peer: Peer, pictures: Path, tmp_path: Path) -> None:
    run(peer, pictures, tmp_path / "out")
    (tmp_path / "out" / "shard-000000.parquet").unlink()
    other = json.loads(json.dumps(ANSWER))
    other["parameters"]["area_threshold"] = 0.30000001192092896
    peer.reply = lambda _: (other, b"")
    assert run(peer, pictures, tmp_path / "out").is_complete


def test_all_of_it_in_an_object_store(peer: Peer, tmp_path: Path) -> None:
    """fsspec's `memory://`; the second time a shard is missing, and a picture as well."""
    fs = fsspec.filesystem("memory")
    root = f"memory://{uuid.uuid4().hex}"
    for number in range(COUNT):
        fs.pipe_file(f"{root}/in/{number:02}.png", png(number))
    fs.pipe_file(f"{root}/in/05.png", b"x" * 1000)
    options = {"max_bytes": 900}
    state = run(peer, f"{root}/in", f"{root}/out", **options)  # type: ignore[arg-type]
    assert (state.is_complete, state.total("failed")) == (True, 1)
    fs.rm_file(f"{root}/out/shard-000000.parquet")
    fs.rm_file(f"{root}/in/01.png")
    state = run(peer, f"{root}/in", f"{root}/out", **options)  # type: ignore[arg-type]
    assert (state.is_complete, state.before, state.total("failed")) == (True, COUNT - 4, 2)
    read = [row for path in sorted(fs.glob(f"{root}/out/shard-*")) for row in rows_of(fs.cat_file(path))]
    assert [row["id"] for row in read] == NAMES
    assert {row["id"]: row["error"] for row in read if row["error"]} == {
        "01.png": "the file cannot be read: there is no such file",
        "05.png": "the picture has more than 900 bytes; --max-image-bytes allows more",
    }
    assert not fs.exists(f"{root}/out/_owner.json")


def rows_of(content: bytes) -> list[dict[str, Any]]:
    read: list[dict[str, Any]] = pq.read_table(io.BytesIO(content)).to_pylist()
    return read


def test_wrong_settings_fail_before_anything_is_written(peer: Peer, pictures: Path, tmp_path: Path) -> None:
    peer.reply = lambda _: (_ for _ in ()).throw(  # type: ignore[assignment]
        Refusal(grpc.StatusCode.INVALID_ARGUMENT, "options.tiles: must be from 1 to 4, is 9")
    )
    with pytest.raises(WrongUsage, match=r"^--tiles: must be from 1 to 4, is 9"):
        run(peer, pictures, tmp_path / "out", settings={"tiles": 9})
    assert len(peer.received) == 1
    assert not (tmp_path / "out").exists()
    with pytest.raises(WrongUsage, match="there is nothing at"):
        run(peer, tmp_path / "none", tmp_path / "out2")
    assert not (tmp_path / "out2").exists()


def test_a_server_that_is_full_at_the_beginning_is_asked_again(
    peer: Peer, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(begin.time, "sleep", lambda _: None)
    times = iter(range(100))

    def reply(_: Any) -> tuple[dict[str, Any], bytes]:
        if next(times) < 10:
            raise Refusal(grpc.StatusCode.UNAVAILABLE, "the server is full")
        return ANSWER, b""

    peer.reply = reply
    assert run(peer, pictures, tmp_path / "out").is_complete
