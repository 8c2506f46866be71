"""`scripts/bench`: what runs, what is kept, and that one failure does not take the others with it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.speed import __main__ as command
from bench.speed.bench import Bench
from bench.speed.report import markers
from bench.speed.results import Result, Row


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two made-up pieces in place of the real ones; what has run is in the list."""
    ran: list[str] = []

    def good(bench: Bench) -> Result:
        ran.append("good")
        return Result([Row("good", 2.0, "×", 1.0)], [], {"values": [2.0]})

    def poor(bench: Bench) -> Result:
        ran.append("poor")
        return Result([Row("poor", 0.5, "×", 1.0)])

    def broken(bench: Bench) -> Result:
        ran.append("broken")
        raise ValueError("tokens differ")

    modules = {
        run.__name__: SimpleNamespace(run=run, __doc__=f"The {run.__name__} one.")
        for run in (broken, good, poor)
    }
    monkeypatch.setattr(command, "PIECES", tuple(modules))
    monkeypatch.setattr(command, "_module", modules.__getitem__)
    return ran


def arguments(folder: Path, *more: str) -> list[str]:
    results = folder / "RESULTS.md"
    if not results.exists():
        results.write_text("# Results\n")
    return ["--output", str(folder / "out"), "--results", str(results), *more]


def test_pieces_run_in_their_order_whatever_order_is_asked(tmp_path: Path, pieces: list[str]) -> None:
    assert command.main(arguments(tmp_path, "--only", "poor", "good", "--no-results")) == 1
    assert pieces == ["good", "poor"]


def test_everything_met_is_0(tmp_path: Path, pieces: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(arguments(tmp_path, "--only", "good")) == 0
    assert "| good | ≥ 1.00× | 2.00×    | met |" in capsys.readouterr().out
    kept = json.loads((tmp_path / "out" / "small" / "good.json").read_text())
    assert kept["result"]["raw"] == {"values": [2.0]}
    assert kept["machine"]["cores"] >= 1
    assert kept["machine"]["others"]["busy_cores"] >= 0


def test_a_failing_piece_is_reported_and_the_others_go_on(
    tmp_path: Path, pieces: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(arguments(tmp_path)) == 2
    assert pieces == ["broken", "good", "poor"]
    shown = capsys.readouterr()
    assert "broken failed: ValueError: tokens differ" in shown.out
    assert "Traceback" in shown.err


def test_a_later_run_goes_on_where_the_first_one_failed(tmp_path: Path, pieces: list[str]) -> None:
    command.main(arguments(tmp_path))
    pieces.clear()
    assert command.main(arguments(tmp_path, "--resume")) == 2
    assert pieces == ["broken"]
    pieces.clear()
    command.main(arguments(tmp_path, "--resume", "--quick"))  # other settings: nothing is taken over
    assert pieces == ["broken", "good", "poor"]


def test_the_section_is_written_when_each_piece_has_a_result(tmp_path: Path, pieces: list[str]) -> None:
    results = tmp_path / "RESULTS.md"
    command.main(arguments(tmp_path, "--only", "good", "poor"))
    assert results.read_text() == "# Results\n"
    command.main(arguments(tmp_path, "--only", "broken"))
    text = results.read_text()
    assert all(marker in text for marker in markers("small"))
    assert "| good | ≥ 1.00× | 2.00×    | met        |" in text
    assert "broken failed: ValueError: tokens differ" in text


@pytest.mark.parametrize("more", [["--quick"], ["--no-results"]])
def test_runs_that_mean_nothing_are_not_written(tmp_path: Path, pieces: list[str], more: list[str]) -> None:
    command.main(arguments(tmp_path, *more))
    assert (tmp_path / "RESULTS.md").read_text() == "# Results\n"


def test_the_pieces_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(command.PIECES)
    assert all(len(line.split()) > 3 for line in lines), "a piece does not say what it is"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--only", "everything"], "invalid choice: 'everything'"),
        (["--full", "x", "--forced", "9"], "--full goes neither with"),
        (["--forced", "1"], "two tokens at least"),
    ],
)
def test_wrong_arguments_are_named(wrong: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(wrong)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
