"""`florence2-sam2 segment --report`: one page that loads nothing from elsewhere."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from kserve_peer import serving
from many_pictures import Run, failing


class Page(HTMLParser):
    """What a browser would load, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.loaded += [
            value or "" for name, value in attributes if name in ("src", "href", "data", "srcset")
        ]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_report_opens_offline(run: Run, folder: Path, tmp_path: Path) -> None:
    (folder / "b<i>.jpg").write_bytes(b"broken")
    page = tmp_path / "report.html"
    with serving(failing({b"broken"})) as peer:
        code, out, _ = run(peer, folder, "data:image/png;base64,AA", "--report", page)
        assert code == 1
        assert len(out.splitlines()) == 6  # and the answers are printed as without it
    read = Page(page.read_text())
    assert len(read.loaded) == 4
    assert all(source.startswith("data:image/jpeg;base64,") for source in read.loaded)
    text = "|".join(read.text)
    assert "5 pictures, 5 objects, 1 label. Left out: 5 area. 1 picture failed." in text
    assert f"{folder}/b<i>.jpg" in text
    assert "a ring" in text
    assert "http" not in page.read_text().replace("xmlns", "")
