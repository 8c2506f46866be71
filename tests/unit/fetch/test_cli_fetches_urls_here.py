"""`florence2-sam2 segment URL --fetch-here`: the command fetches, and what it writes is as of a file."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kserve_peer import serving
from many_pictures import Run, lines
from PIL import Image
from url_servers import Server, answer, sends


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (12, 8), "grey").save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def web(serve: Callable[..., Server]) -> Server:
    return serve(sends(answer(picture())))


def flags(web: Server) -> list[str]:
    return ["--fetch-here", "--url-allow", f"store.local:9000, 127.0.0.1:{web.port}"]


def test_without_it_the_server_fetches(run: Run, web: Server, connects: list[Any]) -> None:
    with serving() as peer:
        assert run(peer, web.url())[0] == 0
        assert peer.inputs()["image_url"][2] == web.url().encode()
    assert connects == []


def test_answers_overlays_and_results(run: Run, web: Server, tmp_path: Path) -> None:
    urls = [web.url("/one.png"), web.url("/two.png?size=large")]
    results = tmp_path / "all.jsonl"
    with serving() as peer:
        code, out, err = run(peer, *urls, *flags(web), "--overlay", tmp_path / "{name}-objects.png")
        assert (code, err) == (0, "")
        assert [json.loads(line)["picture"] for line in out.splitlines()] == urls
        assert [path.name for path in sorted(tmp_path.glob("*.png"))] == [
            "one-objects.png",
            "two-objects.png",
        ]
        assert peer.inputs()["image"][2] == picture()
        for _ in range(2):  # what is done is not fetched again
            assert run(peer, "-", *flags(web), "--results", results, stdin="\n".join(urls))[0] == 0
            assert [line["picture"] for line in lines(results)] == urls
        assert len(peer.received) == web.connections == 4


def test_refusals_are_listed_and_send_nothing(run: Run, web: Server, folder: Path) -> None:
    with serving() as peer:
        code, out, err = run(peer, web.url(), folder / "a.png", "--fetch-here")
        assert code == 1
        assert [json.loads(line).get("error") is None for line in out.splitlines()] == [False, True]
        wanted = f"{web.url()}: image: the URL cannot be fetched here: port {web.port} is not allowed"
        assert wanted in err
        assert len(peer.received) == 1
    assert web.connections == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--url-allow", "127.0.0.1:80"], "--url-allow: it goes with --fetch-here"),
        (["--fetch-here", "--url-allow", "store.local"], "--url-allow: 'store.local' is no host:port pair"),
        (["--overlay", "o.png"], "to draw on it, use --fetch-here"),
    ],
)
def test_wrong_usage(
    run: Run, web: Server, arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with serving() as peer:
        code, _, err = run(peer, web.url(), *arguments)
        assert (code, words in err) == (2, True), err
        assert peer.received == []
    assert web.connections == 0
    assert list(tmp_path.iterdir()) == []
