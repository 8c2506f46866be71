"""`florence2-sam2 segment` takes folders, patterns and lists, and asks about some pictures side by side."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from kserve_peer import ANSWER, serving
from many_pictures import NAMES, Run

from florence2_sam2.cli.sources import SourceError, expand


def test_a_folder_stands_for_its_pictures(folder: Path) -> None:
    found = expand([str(folder)], [])
    assert found.pictures == [str(folder / name) for name in NAMES]
    assert found.total == 4


def test_patterns_and_lists(folder: Path, tmp_path: Path) -> None:
    pattern = expand([f"{folder}/**/*.[pP]*"], [])
    assert pattern.pictures == [str(folder / "a.png"), str(folder / "deep/d.PNG")]
    listed = tmp_path / "list.jsonl"
    listed.write_text(
        '{"id": 1, "url": "https://pictures/1.jpg"}\n\n{"image_url": "https://pictures/2.jpg", "path": "x"}\n'
        '{"file_name": "b.jpg"}\nplain.png\n'
    )
    wanted = ["https://pictures/1.jpg", "https://pictures/2.jpg", "b.jpg", "plain.png"]
    assert expand([str(listed)], []).pictures == wanted
    stream = expand(["first.png", "-"], ["a b.png\n", "\n", '{"image": "c.png"}\n'])
    assert (list(stream.pictures), stream.total) == (["first.png", "a b.png", "c.png"], None)
    odd = tmp_path / "odd [1].png"  # a file's own name is no pattern
    odd.touch()
    assert expand([str(odd)], []).pictures == [str(odd)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{broken\n", "line 1: no JSON"),
        ('a.png\n{"id": 3}\n', "line 2: none of image_url"),
        (None, "No such file"),
    ],
)
def test_a_list_that_cannot_be_read(content: str | None, words: str, tmp_path: Path) -> None:
    listed = tmp_path / "list.jsonl"
    if content is not None:
        listed.write_text(content)
    with pytest.raises(SourceError, match=words):
        expand([str(listed)], [])


def test_nothing_to_segment_is_wrong_usage(run: Run, tmp_path: Path) -> None:
    with serving() as peer:
        code, _, err = run(peer, tmp_path)
        assert (code, "no picture in this folder" in err) == (2, True)
        code, _, err = run(peer, tmp_path / "*.png")
        assert (code, "no file matches" in err) == (2, True)
        assert peer.received == []


def test_names_of_a_stream_do_not_collide(run: Run, folder: Path, tmp_path: Path) -> None:
    (folder / "deep" / "a.png").write_bytes((folder / "a.png").read_bytes())
    names = f"{folder / 'a.png'}\n{folder / 'deep' / 'a.png'}\n"
    with serving() as peer:
        code, _, err = run(peer, "-", "--overlay", tmp_path / "{name}-o.png", stdin=names)
    assert code == 1
    assert "two pictures have the same name" in err
    assert (tmp_path / "a-o.png").exists()


def test_pictures_are_asked_about_side_by_side(run: Run, folder: Path) -> None:
    together = threading.Barrier(4, timeout=10)

    def reply(_: Any) -> tuple[dict[str, Any], bytes]:
        together.wait()
        return ANSWER, b""

    with serving(reply) as peer:
        code, out, _ = run(peer, folder, "--concurrency", 4)
    assert code == 0
    assert [json.loads(line)["picture"] for line in out.splitlines()] == [
        str(folder / name) for name in NAMES
    ]
