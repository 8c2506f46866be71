"""A download shows how far it is: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import io

import pytest

from florence2_sam2.hub import progress
from florence2_sam2.hub.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    monkeypatch.setattr(progress, "BAR_SECONDS", 0)


def test_lines_in_a_log() -> None:
    said: list[str] = []
    log = io.StringIO()
    shown = Progress("weights", 200_000_000, 50_000_000, said.append, log)
    shown.advance(100_000_000)
    shown.finish()
    assert log.getvalue() == ""
    assert said[0].startswith("weights: 75%, 150.0 MB of 200.0 MB, ")
    assert said[1].startswith("weights: 100.0 MB downloaded in 0.0 s")


def test_a_bar_on_a_terminal_is_gone_afterwards() -> None:
    said: list[str] = []
    terminal = Terminal()
    shown = Progress("weights", 2_000_000_000, 0, said.append, terminal)
    shown.advance(1_000_000_000)
    assert f"weights {'█' * 15}{'·' * 15} 1.00 GB of 2.00 GB" in terminal.getvalue()
    assert said == []
    shown.interrupt("the connection broke")
    shown.finish()
    assert terminal.getvalue().endswith("\r\033[K")
    assert said[0] == "the connection broke"


def test_lines_are_not_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 1000)
    said: list[str] = []
    shown = Progress("weights", 100, 0, said.append, io.StringIO())
    for _ in range(100):
        shown.advance(1)
    assert said == []
