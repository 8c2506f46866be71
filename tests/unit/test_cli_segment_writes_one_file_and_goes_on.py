"""`florence2-sam2 segment --results`: all answers in one file, of three forms, that a stopped run goes on with."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import shapely.geometry
from kserve_peer import ANSWER, Peer, Refusal, serving
from many_pictures import NAMES, Run, failing, lines
from PIL import Image
from pycocotools.coco import COCO

from florence2_sam2.cli.results_file import ResultsFile
from florence2_sam2.client import Segmentation
from florence2_sam2.client.attempts import Link


def test_one_file_has_all_answers(run: Run, folder: Path, tmp_path: Path) -> None:
    with serving() as peer:
        out = tmp_path / "all.jsonl"
        code, printed, err = run(peer, folder, "--results", out)
        assert (code, printed) == (0, "")
        assert re.search(r"4 pictures in \d+ s \(.*\), 4 objects", err)
        assert [line["picture"] for line in lines(out)] == [str(folder / name) for name in NAMES]
        assert {key: lines(out)[0][key] for key in ANSWER} == ANSWER
        code, printed, err = run(peer, folder, "--results", out)  # nothing is left to do
        assert (code, len(peer.received)) == (0, 4)
        assert "0 pictures" in err
        assert "4 were done before" in err
        Image.new("RGB", (12, 8)).save(folder / "new.png")
        run(peer, folder, "--results", out)
        assert len(peer.received) == 5
        assert lines(out)[-1]["picture"] == str(folder / "new.png")


def test_a_list_on_standard_input_goes_on_too(run: Run, folder: Path, tmp_path: Path) -> None:
    names = "".join(f"{folder / name}\n" for name in NAMES)
    with serving() as peer:
        out = tmp_path / "all.jsonl"
        assert run(peer, "-", "--results", out, stdin=names[: names.index("\n") + 1])[0] == 0
        assert run(peer, "-", "--results", out, stdin=names + names)[0] == 0
        assert len(peer.received) == 4
        assert sorted(line["picture"] for line in lines(out)) == sorted(names.split("\n")[:-1])
        code, _, err = run(peer, "-", "--results", out, stdin="{broken\n")
        assert (code, "standard input, line 1: no JSON" in err) == (1, True)


def test_failures_are_listed_and_tried_again(run: Run, folder: Path, tmp_path: Path) -> None:
    broken = folder / "b.jpg"
    broken.write_bytes(b"broken")
    out = tmp_path / "all.coco.json"
    with serving(failing({b"broken"})) as peer:
        code, _, err = run(peer, folder, "--results", out)
        assert code == 1
        assert f"1 of 4 pictures failed:\n  {broken}: image: is no picture" in err
        assert [image["file_name"] for image in json.loads(out.read_text())["images"]] == [
            str(folder / name) for name in NAMES if name != "b.jpg"
        ]
        assert len(lines(tmp_path / "all.coco.json.part")) == 3
        Image.new("RGB", (12, 8)).save(broken)
        code, _, err = run(peer, folder, "--results", out)
        assert (code, len(peer.received)) == (0, 5)
        assert list(tmp_path.glob("all*")) == [out]
        code, _, err = run(peer, folder, "--results", out)
        assert (code, "is finished; --restart" in err, len(peer.received)) == (2, True, 5)
        assert run(peer, folder, "--results", out, "--restart")[0] == 0
        assert len(peer.received) == 9


def test_coco_and_geojson_are_read_by_their_tools(run: Run, folder: Path, tmp_path: Path) -> None:
    with serving() as peer:
        run(peer, folder, "--results", tmp_path / "all.coco.json")
        assert json.loads(peer.inputs()["options"][2])["formats"] == ["rle"]
        run(peer, folder, "--results", tmp_path / "all.geojson")
        assert "options" not in peer.inputs()
    dataset = COCO(tmp_path / "all.coco.json")
    images = dataset.loadImgs(dataset.getImgIds())
    assert [image["file_name"] for image in images] == [str(folder / name) for name in NAMES]
    for image in images:
        (annotation,) = dataset.loadAnns(dataset.getAnnIds(imgIds=[image["id"]]))
        assert np.array_equal(dataset.annToMask(annotation), Segmentation.from_json(ANSWER).mask())
    features = json.loads((tmp_path / "all.geojson").read_text())["features"]
    assert [feature["properties"]["picture"] for feature in features] == [
        str(folder / name) for name in NAMES
    ]
    assert all(shapely.geometry.shape(feature["geometry"]).is_valid for feature in features)


def test_a_line_that_was_cut_off_is_asked_for_again(run: Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.jsonl"
    with serving() as peer:
        run(peer, folder, "--results", out)
        whole = out.read_bytes()
        for cut in (1, 40, len(whole) // 2):
            out.write_bytes(whole[:-cut])
            assert run(peer, folder, "--results", out)[0] == 0
            assert sorted(out.read_bytes().splitlines()) == sorted(whole.splitlines())
        out.write_bytes(b"not ours\n" + whole)
        code, _, err = run(peer, folder, "--results", out)
        assert (code, "line 1: not written by this command" in err) == (2, True)
        assert out.read_bytes() == b"not ours\n" + whole


def test_other_settings_do_not_mix(run: Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.jsonl"

    def reply(request: Any) -> tuple[dict[str, Any], bytes]:
        return {**ANSWER, "parameters": {**ANSWER["parameters"], "nms_threshold": 0.699999988079071}}, b""

    with serving(reply) as peer:
        assert run(peer, folder / "a.png", "--results", out, "--nms-threshold", 0.7)[0] == 0
        assert run(peer, folder / "b.jpg", "--results", out, "--nms-threshold", 0.7)[0] == 0
        code, _, err = run(peer, folder, "--results", out, "--nms-threshold", 0.6)
        assert (code, len(peer.received)) == (2, 2)
        assert "was begun with nms_threshold 0.699999988079071, not 0.6; --restart" in err
        code, _, err = run(peer, folder, "--results", out, "--caption", "a dog")
        assert (code, "was begun with caption" in err) == (2, True)


def test_settings_that_are_left_out_later_do_not_mix_either(run: Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.jsonl"

    def reply(request: Any) -> tuple[dict[str, Any], bytes]:
        given = any(tensor.name == "area_threshold" for tensor in request.inputs)
        return {
            **ANSWER,
            "parameters": {**ANSWER["parameters"], "area_threshold": 1.0 if given else 0.3},
        }, b""

    with serving(reply) as peer:
        assert run(peer, folder / "a.png", "--results", out, "--area-threshold", 1)[0] == 0
        code, _, err = run(peer, folder, "--results", out)
        assert (code, "was begun with area_threshold 1.0, not 0.3; --restart" in err) == (2, True)
        assert "Traceback" not in err
        assert len(lines(out)) == 1
        assert run(peer, folder, "--results", out, "--area-threshold", 1)[0] == 0
    assert [line["parameters"]["area_threshold"] for line in lines(out)] == [1.0] * 4


def test_two_runs_do_not_write_one_file(run: Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.coco.json"
    with serving() as peer, ResultsFile(out, {}) as first:
        code, _, err = run(peer, folder, "--results", out)
        assert (code, "another run is writing to it" in err) == (2, True)
        assert (peer.received, first.done) == ([], set())


def test_a_lost_server_ends_the_run_and_the_next_goes_on(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Link, "is_worth_waiting", lambda *_: False)  # it stays away for longer than that
    out = tmp_path / "all.jsonl"
    served = 0

    def reply(_: Any) -> tuple[dict[str, Any], bytes]:
        nonlocal served
        served += 1
        if served > 2:
            raise Refusal(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses")
        return ANSWER, b""

    with serving(reply) as peer:
        code, _, err = run(peer, folder, "--results", out, "--concurrency", 1)
        assert code == 1
        assert "no server answers" in err
        assert "the same command goes on from here" in err
        assert len(lines(out)) == 2
        served = -10
        assert run(peer, folder, "--results", out)[0] == 0
    assert [line["picture"] for line in lines(out)] == [str(folder / name) for name in NAMES]


@pytest.fixture
def slow_peer() -> Iterator[Peer]:
    def reply(_: Any) -> tuple[dict[str, Any], bytes]:
        time.sleep(0.4)
        return ANSWER, b""

    with serving(reply) as peer:
        yield peer


def test_an_interrupted_run_goes_on(slow_peer: Peer, run: Run, tmp_path: Path) -> None:
    """A real process and a real Ctrl-C."""
    pictures = []
    for index in range(12):
        pictures.append(tmp_path / f"{index:02}.png")
        Image.new("RGB", (12, 8)).save(pictures[-1])
    out = tmp_path / "all.jsonl"
    arguments = ["segment", tmp_path, "--results", out, "--concurrency", 1]
    process = subprocess.Popen(
        [sys.executable, "-m", "florence2_sam2", *map(str, arguments), "--url", slow_peer.address],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    end = time.monotonic() + 30
    while time.monotonic() < end and (not out.exists() or len(lines(out)) < 2):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "goes on from here" in err
    assert "Traceback" not in err
    before = len(lines(out))
    assert 2 <= before < 12
    assert run(slow_peer, *arguments[1:])[0] == 0
    assert [line["picture"] for line in lines(out)] == list(map(str, pictures))
    assert len(slow_peer.received) <= 12 + 1  # the one that was under way when it stopped


def test_wrong_usage_of_results(run: Run, folder: Path, tmp_path: Path) -> None:
    cases: list[tuple[list[object], str]] = [
        (["--results", "all.csv"], "must end in .jsonl, .coco.json, .geojson"),
        (["--results", tmp_path / "none" / "all.jsonl"], "there is no folder"),
        (["--restart"], "goes with --results"),
        (["--results", "x.geojson", "--mask", "{name}.png"], "only .jsonl takes it"),
        (["--results", "x.coco.json", "--normalized"], "COCO's coordinates are pixels"),
        (["--concurrency", 0], "at least 1"),
        (["--report", tmp_path / "none" / "r.html"], "there is no folder"),
        (["--report", folder / "a.png"], "must end in .html"),
    ]
    with serving() as peer:
        for arguments, words in cases:
            code, _, err = run(peer, folder, *arguments)
            assert (code, words in err) == (2, True), (arguments, err)
        assert peer.received == []
