"""`florence2-sam2 segment`: readable on a terminal, JSON in a pipe, and every failure said with what to do about it."""

from __future__ import annotations

import copy
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from kserve_peer import ANSWER, Peer, Refusal, serving
from PIL import Image

from florence2_sam2.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def peer() -> Iterator[Peer]:
    with serving() as running:
        yield running


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    paths = [tmp_path / name for name in ("rock.png", "table.jpg", "tree.bmp")]
    for path in paths:
        Image.new("RGB", (12, 8), "grey").save(path)
    return [str(path) for path in paths]


@pytest.fixture
def run(peer: Peer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command against the peer, on a terminal or not; gives exit code, stdout, stderr."""

    def call(*arguments: str, terminal: bool = True, url: str | None = None) -> tuple[int, str, str]:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
        try:
            code = main(["segment", *arguments, "--url", url or peer.address])
        except SystemExit as left:
            code = int(left.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def mask_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (12, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_on_a_terminal(run: Run, pictures: list[str]) -> None:
    code, out, err = run(pictures[0])
    assert (code, err) == (0, "")
    assert out == (
        f"{pictures[0]}  12×8\n"
        "  caption (florence2): The image shows a ring on a wooden table.\n"
        "       object  score  share  parts\n"
        "    1  a ring  0.947  25.0%      2\n"
        "  left out\n"
        "    a wooden table  area 0.51 > 0.3: raise --area-threshold\n"
        "  warning: caption: cut at a sentence\n"
        "  50 ms: decode 2 · caption 20 · ground 18 · embed 7 · masks 3 · postprocess 1\n"
        "\n"
    )


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"reason": "area"}, "area 0.51 > 0.3: raise --area-threshold"),
        ({"reason": "confidence", "score": 0.4213}, "confidence 0.421 < 0.5: lower --confidence-threshold"),
        (
            {"reason": "nms", "suppressed_by": 0},
            "nms overlaps object 1, a ring, by more than 0.5: raise --nms-threshold",
        ),
        ({"reason": "nms"}, "nms overlaps a better object by more than 0.5: raise --nms-threshold"),
        ({"reason": "empty_mask"}, "SAM2 found no pixel of it"),
        ({"reason": "degenerate_box"}, "its box has no area within the picture"),
        ({"reason": "banned_phrase"}, "banned phrase"),
    ],
)
def test_each_reason_says_what_would_keep_the_object(
    run: Run, peer: Peer, pictures: list[str], item: dict[str, Any], words: str
) -> None:
    body = copy.deepcopy(ANSWER)
    body["filtered"][0].update(item)
    peer.reply = lambda _: (body, b"")
    assert f"    a wooden table  {words}\n" in run(pictures[0])[1]


def test_nothing_found_and_nothing_kept_read_differently(run: Run, peer: Peer, pictures: list[str]) -> None:
    peer.reply = lambda _: (ANSWER | {"objects": []}, b"")
    assert "  nothing kept\n" in run(pictures[0])[1]
    peer.reply = lambda _: (ANSWER | {"objects": [], "filtered": []}, b"")
    assert "  nothing found\n" in run(pictures[0])[1]


def test_in_a_pipe_each_picture_is_a_line_of_json(run: Run, pictures: list[str]) -> None:
    code, out, err = run(*pictures, terminal=False)
    assert (code, err) == (0, "")
    assert [json.loads(line) for line in out.splitlines()] == [
        {"picture": path} | ANSWER for path in pictures
    ]
    assert run(*pictures, "--json") == (0, out, "")


def test_a_reader_that_has_had_enough_ends_it_without_a_word(
    peer: Peer, pictures: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "all.json"
    command = [sys.executable, "-m", "florence2_sam2", "segment", *pictures, "--url", peer.address]
    command += ["--json", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141
    assert (
        json.loads(file.read_text()) == {"picture": pictures[0]} | ANSWER
    )  # the answer that was not printed


def test_json_into_files(run: Run, pictures: list[str], tmp_path: Path) -> None:
    code, out, _ = run(*pictures, "--json", str(tmp_path / "all.json"), terminal=False)
    assert code == 0
    assert out.startswith(f"{pictures[0]}  12×8\n")
    assert len((tmp_path / "all.json").read_text().splitlines()) == 3
    run(*pictures, "--json", str(tmp_path / "{name}.json"))
    assert json.loads((tmp_path / "tree.json").read_text()) == {"picture": pictures[2]} | ANSWER


def test_overlay_and_mask_files(run: Run, peer: Peer, pictures: list[str], tmp_path: Path) -> None:
    code, out, _ = run(*pictures, "--overlay", str(tmp_path / "{name}-objects.png"))
    assert code == 0
    assert f"  wrote {tmp_path / 'table-objects.png'}\n" in out
    assert (np.asarray(Image.open(tmp_path / "rock-objects.png")) != 128).any()
    peer.reply = lambda _: (ANSWER | {"mask_url": "data:"}, mask_png())
    for _ in range(2):  # a mask may be written again
        assert run(pictures[0], "--mask", str(tmp_path / "mask.png"))[0] == 0
    assert (tmp_path / "mask.png").read_bytes() == mask_png()
    assert peer.inputs()["output_mask"] == ("BOOL", [1], b"\1")


def test_each_flag_is_a_setting(run: Run, peer: Peer, pictures: list[str]) -> None:
    run(
        pictures[0],
        *("--phrases", "a dog, a cat,", "--area-threshold", "1", "--confidence-threshold", "0"),
        *(
            "--nms-threshold",
            "0.7",
            "--nms",
            "mask",
            "--polygon-precision",
            "0",
            "--format",
            "rle",
            "--format",
            "coco",
        ),
        *("--num-beams", "1", "--max-new-tokens", "50", "--normalized"),
    )
    inputs = peer.inputs()
    numbers = {
        name: float(np.frombuffer(value, np.float32)[0])
        for name, (kind, _, value) in inputs.items()
        if kind == "FP32"
    }
    assert numbers == {
        "area_threshold": 1,
        "confidence_threshold": 0,
        "nms_threshold": pytest.approx(0.7),
        "polygon_precision": 0,
    }
    assert json.loads(inputs["options"][2]) == {
        "phrases": ["a dog", "a cat"],
        "nms": "mask",
        "formats": ["rle", "coco"],
        "num_beams": 1,
        "max_new_tokens": 50,
        "normalized": True,
    }
    run(pictures[0], "--caption", "a dog")
    assert peer.inputs()["caption"][2] == b"a dog"
    run("data:image/png;base64,AA")
    assert peer.inputs().keys() == {"image_url"}


def test_one_failure_does_not_stop_the_others(run: Run, pictures: list[str], tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.png")
    code, out, err = run(pictures[0], missing, pictures[1], "--json")
    assert code == 1
    assert [json.loads(line).get("error") for line in out.splitlines()] == [
        None,
        "there is no such file",
        None,
    ]
    assert err == (f"florence2-sam2 segment: 1 of 3 pictures failed:\n  {missing}: there is no such file\n")


@pytest.mark.parametrize(
    ("code", "message", "words"),
    [
        (
            "INVALID_ARGUMENT",
            "area_threshold: a number from 0 to 1 is needed, got 3.0",
            "--area-threshold: a number",
        ),
        ("INVALID_ARGUMENT", "options.num_beams: a whole number", "--num-beams: a whole number"),
        ("INVALID_ARGUMENT", "image: this is no picture", "rock.png: image: this is no picture"),
        ("UNAVAILABLE", "32 requests are waiting: try again later", "rock.png: 32 requests are waiting"),
        ("INTERNAL", "boom", "rock.png: boom (INTERNAL)"),
        ("NOT_FOUND", "no model", "does not serve the `segment` model (no model)"),
    ],
)
def test_refusals_in_the_commands_own_terms(
    run: Run, peer: Peer, pictures: list[str], code: str, message: str, words: str
) -> None:
    def reply(_: Any) -> Any:
        raise Refusal(grpc.StatusCode[code], message)

    peer.reply = reply
    exit_code, out, err = run(pictures[0])
    assert (exit_code, out) == (1, "")
    assert words in err
    assert err.count("\n") == 1


def test_a_failed_pictures_line_has_the_request_id(run: Run, peer: Peer, pictures: list[str]) -> None:
    def reply(_: Any) -> Any:
        raise Refusal(grpc.StatusCode.INTERNAL, "boom")

    peer.reply = reply
    _, out, _ = run(pictures[0], "--json")
    told = json.loads(out)
    assert told["error"] == "boom (INTERNAL)"
    assert re.fullmatch("[0-9a-f]{16}", told["request_id"])


def test_without_a_server(run: Run, pictures: list[str]) -> None:
    code, out, err = run(*pictures, url="grpc://127.0.0.1:1")
    assert (code, out) == (1, "")
    assert err == (
        "florence2-sam2 segment: 3 of 3 pictures failed:\n"
        f"  {', '.join(pictures)}: no server answers at grpc://127.0.0.1:1; "
        "start one with `florence2-sam2 serve`, or say where it is with --url\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["rock.png", "table.jpg", "--overlay", "out.png"],
            "2 pictures need a file each: write {name} in FILE",
        ),
        (["rock.png", "sub/rock.png", "--mask", "{name}-m.png"], "two pictures have the same name"),
        (["rock.png", "--overlay", "rock.png"], "rock.png is one of the pictures and would be overwritten"),
        (["--mask", "rock.png", "table.jpg"], "rock.png is a picture, not a mask"),
        (
            ["--json", "rock.png", "table.jpg"],
            "FILE must end in .json or .jsonl; pictures go before the options",
        ),
        (["rock.png", "--mask", "mask.jpg"], "FILE must end in .png"),
        (["rock.png", "--overlay", "objects"], "a picture's ending, like .png"),
        (["rock.png", "--overlay", "nowhere/objects.png"], "there is no folder nowhere"),
        (["http://host/rock.png", "--overlay", "o.png"], "fetched by the server only"),
        (["rock.png", "--mask"], "say which FILE"),
        (["rock.png", "--timeout", "0"], "--timeout: more than 0"),
        (["rock.png", "--url", "http://host:8000"], "--url: 'http://host:8000': this client speaks gRPC"),
        (["rock.png", "--caption", "a", "--phrases", "b"], "not allowed with argument"),
        (["rock.png", "--phrases", " , "], "at least one phrase"),
        ([], "PICTURE"),
    ],
)
def test_wrong_usage_sends_and_writes_nothing(
    peer: Peer,
    pictures: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    try:
        code = main(["segment", "--url", peer.address, *arguments])
    except SystemExit as left:
        code = int(left.code or 0)
    assert code == 2
    assert words in capsys.readouterr().err
    assert peer.received == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_failing_picture_server_or_disk_is_said_without_a_traceback(
    run: Run, peer: Peer, pictures: list[str], tmp_path: Path
) -> None:
    peer.reply = lambda _: (ANSWER | {"image": {"width": 99, "height": 8}}, b"")
    code, _, err = run(pictures[0], "--overlay", str(tmp_path / "o.png"))
    assert (code, err.count("\n")) == (1, 1)
    assert "the picture is 12×8, the answer's 99×8" in err
    (tmp_path / "folder.json").mkdir()
    code, _, err = run(pictures[0], "--json", str(tmp_path / "folder.json"))
    assert (code, err.count("\n")) == (1, 1)
    assert "Is a directory" in err


def test_the_installed_command(peer: Peer, pictures: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "florence2_sam2", "segment", pictures[0]],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"FLORENCE2_SAM2_URL": peer.address},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"picture": pictures[0]} | ANSWER


def test_every_setting_has_a_flag(run: Run, pictures: list[str], peer: Peer) -> None:
    flags = ["--tiles", "2", "--reduced-decode", "--priority", "bulk", "--boxes", "[[1, 2, 3.5, 4]]"]
    code, _, err = run(pictures[0], *flags, "--mask", "--json", "--invert-mask")
    assert (code, err) == (0, "")
    tensors = {
        tensor.name: data
        for tensor, data in zip(peer.received[-1].inputs, peer.received[-1].raw_input_contents, strict=True)
    }
    assert json.loads(tensors["options"][4:]) == {
        "tiles": 2,
        "reduced_decode": True,
        "priority": "bulk",
        "boxes": [[1, 2, 3.5, 4]],
        "invert_mask": True,
    }
    assert run(pictures[0], "--boxes", "[[1, 2, 3]]")[0] == 2
    assert run(pictures[0], "--boxes", "[[1, 2, 3, 4]]", "--caption", "a cat")[0] == 2
    code, _, err = run(pictures[0], "--invert-mask")
    assert (code, "--invert-mask: it goes with --mask" in err) == (2, True)
