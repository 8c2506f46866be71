"""`florence2-sam2 bulk`'s own words: wrong usage, what is not installed, progress, failures, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pyarrow.parquet as pq
import pytest
from bulk_inputs import without_ray  # noqa: F401
from bulk_parts import png
from kserve_peer import ANSWER, Peer, Refusal, serving

from florence2_sam2.bulk import cluster
from florence2_sam2.cli import main

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def peer() -> Iterator[Peer]:
    with serving() as opened:
        yield opened


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.png").write_bytes(png(number))
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], peer: Peer) -> Run:
    """Exit code, and what was said; nothing goes to standard output."""

    def call(*arguments: object, url: bool = True) -> tuple[int, str]:
        where = ["--url", peer.address] if url else []
        try:
            code = main(["bulk", *map(str, arguments), *where])
        except SystemExit as left:
            code = int(left.code or 0)
        out, err = capsys.readouterr()
        assert out == ""
        return code, err

    return call


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "--workers: at least 1 is needed"),
        (["--in-flight", "0"], "--in-flight: at least 1 is needed"),
        (["--shard-size", "-1"], "--shard-size: at least 1 is needed"),
        (["--max-image-bytes", "0"], "--max-image-bytes: at least 1 is needed"),
        (["--timeout", "0"], "--timeout: more than 0 seconds are needed"),
        (["--patience", "nan"], "--patience: more than 0 seconds are needed"),
        (["--url-allow", "a:80"], "--url-allow: it goes with --fetch-here"),
        (["--form", "parquet", "--merge", "a.json"], "--merge: it goes with --form coco"),
        (["--form", "coco", "--normalized"], "--normalized: COCO's coordinates are pixels"),
        (["--url", "http://a"], "--url: 'http://a': this client speaks gRPC"),
        (["--url", "a.invalid", "--url", "b.invalid"], "--url: a.invalid:8001: the name is not known"),
        (["--boxes", "[[0, 0, 1, 1]]"], "unrecognized arguments: --boxes"),
        (["--caption", "a", "--phrases", "b"], "not allowed with argument"),
    ],
)
def test_wrong_usage(run: Run, pictures: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    code, said = run(pictures, tmp_path / "out", *arguments)
    assert code == 2
    assert message in said
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_read_is_wrong_usage(run: Run, peer: Peer, tmp_path: Path) -> None:
    code, said = run(tmp_path / "none", tmp_path / "out")
    assert (code, said) == (2, f"florence2-sam2 bulk: INPUT: there is nothing at {tmp_path}/none\n")
    assert peer.received == []


@pytest.mark.usefixtures("without_ray")
def test_a_run_from_first_to_last(
    run: Run, peer: Peer, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bad = png(3)

    def reply(request: Any) -> tuple[dict[str, Any], bytes]:
        if request.raw_input_contents[0][4:] == bad:
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "image: is no picture")
        return ANSWER, b""

    peer.reply = reply
    command = ("pictures", "out", "--shard-size", 2, "--area-threshold", 0.3, "--phrases", "a, b", "--rle")
    code, said = run(*command)
    assert code == 1
    first, last = said.splitlines()
    assert first.startswith("5 pictures in ")
    assert first.endswith(" 4 objects, 1 failed")
    assert last == (
        f"florence2-sam2 bulk: 1 of 5 pictures failed: rows with an `error` in {tmp_path}/out say why"
    )
    options = json.loads(peer.inputs(1)["options"][2])
    assert options == {"formats": ["rle"], "phrases": ["a", "b"], "priority": "bulk"}
    assert [row["error"] for row in pq.read_table("out").to_pylist()].count(None) == 4
    code, said = run(*command)
    assert code == 1
    assert "0 pictures in 0 s (0/s), 0 objects, 5 were done before" in said
    code, said = run(*command, "--area-threshold", 0.4)
    assert code == 2
    assert said.startswith(f"florence2-sam2 bulk: {tmp_path}/out was begun with area_threshold 0.3, not 0.4")


@pytest.mark.usefixtures("without_ray")
def test_coco_and_its_whole(run: Run, pictures: Path, tmp_path: Path, peer: Peer) -> None:
    thing = {**ANSWER["objects"][0], "grounding_score": 0.5, "rle": {"size": [8, 12], "counts": "X"}}
    peer.reply = lambda _: ({**ANSWER, "objects": [thing]}, b"")
    command = (pictures, tmp_path / "out", "--shard-size", 2, "--merge", tmp_path / "all.json")
    assert run(*command)[0] == 0
    document = json.loads((tmp_path / "all.json").read_text())
    assert [image["file_name"] for image in document["images"]] == [f"{number}.png" for number in range(5)]
    assert [annotation["image_id"] for annotation in document["annotations"]] == [1, 2, 3, 4, 5]
    assert json.loads(peer.inputs()["options"][2])["formats"] == ["rle"]
    (tmp_path / "all.json").unlink()
    calls = len(peer.received)
    assert run(*command)[0] == 0  # from the shards alone
    assert json.loads((tmp_path / "all.json").read_text()) == document
    assert len(peer.received) == calls
    code, said = run(*command[:2], "--form", "parquet")
    assert (code, '--form "coco", not "parquet"' in said) == (2, True)


@pytest.mark.usefixtures("without_ray")
def test_shards_that_could_not_be_done_are_listed(
    run: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("florence2_sam2.bulk.shard._FIRST_PAUSE", 0.001)
    (pictures / "3.png").unlink()
    (pictures / "3.png").symlink_to("3.png")
    code, said = run(pictures, tmp_path / "out", "--shard-size", 2)
    assert code == 1
    assert said.splitlines()[1:] == [
        "florence2-sam2 bulk: 1 of 3 shards could not be done; the same command tries them again:",
        "  shard-000001.parquet: the picture 3.png cannot be read: Too many levels of symbolic links",
    ]


@pytest.mark.usefixtures("without_ray")
def test_a_run_that_is_stopped_says_that_it_goes_on(
    run: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_turn = cluster.outcomes

    def stopped(*arguments: Any) -> Any:
        yield next(in_turn(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(cluster, "outcomes", stopped)
    code, said = run(pictures, tmp_path / "out", "--shard-size", 2)
    assert code == 130
    assert said.startswith("florence2-sam2 bulk: stopped: 2 pictures in ")
    assert said.endswith("; the same command goes on from here\n")
    assert json.loads((tmp_path / "out" / "_manifest.json").read_text())["pictures"] == 2
    monkeypatch.setattr(cluster, "outcomes", in_turn)
    code, said = run(pictures, tmp_path / "out", "--shard-size", 2)
    assert (code, "2 were done before" in said) == (0, True)


def test_no_server(run: Run, pictures: Path, tmp_path: Path) -> None:
    with serving() as gone:
        pass
    code, said = run(pictures, tmp_path / "out", "--url", gone.address, url=False)
    assert code == 1
    assert said.startswith(f"florence2-sam2 bulk: no server answers at grpc://{gone.address}; start one")


def test_a_folder_that_cannot_be_written(run: Run, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    code, said = run(pictures, tmp_path / "out")
    assert code == 1
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("missing", ["ray", "pyarrow", "fsspec"])
def test_what_is_not_installed_is_said_in_one_line(missing: str, pictures: Path, tmp_path: Path) -> None:
    """And `--help` needs none of it."""
    program = (
        f"import sys; sys.modules[{missing!r}] = None; from florence2_sam2.cli import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", program, "bulk"]
    done = subprocess.run([*command, pictures, tmp_path / "out"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    wanted = f"florence2-sam2 bulk: {missing} is not installed: pip install 'florence2-sam2[bulk]'\n"
    assert done.stderr == wanted
    assert not os.path.exists(tmp_path / "out")
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--ray-address" in done.stdout
