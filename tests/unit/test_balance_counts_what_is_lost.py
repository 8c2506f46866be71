"""`scripts/balance`: what counts as lost, as a share, as another version's; the exit status, what is written."""

from __future__ import annotations

import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.balance import __main__ as command
from bench.balance.job import Job
from bench.balance.load import Call, Figures, Load
from bench.balance.servers import answered_since
from bench.balance.story import Chapter, Story
from bench.balance.tuned import EMBEDDING, tuned
from bench.balance.upgrade import by_others
from bench.speed.report import markers
from bench.speed.results import Result, Row
from florence2_sam2.server.launch.checks import check_repository
from florence2_sam2.server.manifest import packaged_repository, read_florence2, version_folder

OLD, NEW = ({"florence2": {"checkpoint": name}} for name in ("old", "new"))


def test_figures_are_of_the_calls_that_ended_then() -> None:
    calls = [
        Call(0.0, 1.0, models=OLD),
        Call(1.0, 3.0, models=OLD),
        Call(1.5, 4.0, "CannotConnect: gone"),
        Call(2.0, 6.0, models=NEW),
    ]
    found = Figures.of(calls, 2.0, 5.0)
    assert (found.calls, found.faults, found.slowest) == (2, ["CannotConnect: gone"], 2.0)
    assert math.isnan(Figures.of(calls, 3.5, 5.0).p50)


def test_answers_are_counted_over_restarts() -> None:
    assert answered_since({"a": 10.0, "b": 50.0}, {"a": 14.0, "b": 3.0, "c": 2.0}) == {
        "a": 4.0,
        "b": 3.0,
        "c": 2.0,
    }


def test_a_share_is_of_an_equal_part() -> None:
    chapter = Chapter("", 0.0, 10.0, {"a": 6.0, "b": 3.0, "c": 0.0})
    assert [chapter.share_of_fair(name, 3) for name in "abc"] == [2.0, 1.0, 0.0]
    assert math.isnan(Chapter("", 0.0, 1.0, {"a": 0.0}).share_of_fair("a", 1))


def test_answers_of_the_other_version_are_those_of_calls_sent_after_the_change() -> None:
    calls = [Call(1, 6, models=OLD), Call(5, 7, models=OLD), Call(6, 7, models=NEW), Call(7, 8, "lost")]
    assert by_others(calls, "new", 5, math.inf) == [calls[1]]
    assert by_others(calls, "new", 5.5, math.inf) == []
    assert by_others(calls, "old", 0, 6) == []


class Failing:
    """A client whose every third call fails."""

    sent: list[bytes] = []  # noqa: RUF012

    def __enter__(self) -> Failing:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def segment(self, picture: bytes, timeout: float) -> Any:
        self.sent.append(picture)
        if len(self.sent) % 3 == 0:
            raise ConnectionError("gone")
        return SimpleNamespace(width=3, models=OLD)


def test_every_call_is_another_picture_and_every_failure_is_kept() -> None:
    Failing.sent = []
    with Load(Failing, [b"\xff\xd8 one", b"\xff\xd8 two"], callers=2, period=0.01) as load:  # type: ignore[arg-type]
        while len(load.calls) < 12:
            time.sleep(0.01)
    assert len(set(Failing.sent)) == len(Failing.sent) == len(load.calls)
    faults = [call.fault for call in load.calls if call.fault]
    assert len(faults) == len(load.calls) // 3
    assert set(faults) == {"ConnectionError: gone"}


def test_a_story_is_told_in_a_table() -> None:
    counts = iter([{"a": 0.0, "b": 5.0}, {"a": 3.0, "b": 6.0}, {"a": 3.0, "b": 6.0}, {"a": 3.0, "b": 0.0}])
    fleet: Any = SimpleNamespace(counts=lambda: next(counts))
    load: Any = SimpleNamespace(calls=[])
    story = Story(fleet, load, lambda text: None)
    with story.chapter("first"):
        load.calls.append(Call(time.monotonic() - 0.5, time.monotonic(), models=OLD))
    with story.chapter("nothing comes"):
        load.calls.append(Call(time.monotonic(), time.monotonic(), "lost"))
    table = story.table("t", "n")
    assert table.rows[0][:4] == ["first", "0", "1", "0"]
    assert table.rows[0][4:7] == ["500"] * 3
    assert table.rows[0][7:] == ["75 %", "25 %"]
    assert table.rows[1][2:4] == ["1", "1"]
    assert table.rows[1][7:] == ["", ""]
    assert story.lost() == ["lost"]
    assert [row["faults"] for row in story.raw()["chapters"]] == [[], ["lost"]]


def test_a_tuned_version_is_whole_and_another(tmp_path: Path) -> None:
    source = packaged_repository()
    before = (version_folder(source, "florence2") / EMBEDDING).read_bytes()
    repository = tuned(source, tmp_path / "repository", "florence2-next")
    check_repository(repository)
    check_repository(source)
    assert (version_folder(source, "florence2") / EMBEDDING).read_bytes() == before
    spec = read_florence2(repository)
    assert spec.source.checkpoint == "florence2-next"
    assert spec.source.sha256 != read_florence2(source).source.sha256
    tables = [np.load(version_folder(where, "florence2") / EMBEDDING) for where in (source, repository)]
    assert tables[0].dtype == tables[1].dtype
    assert 0 < np.abs(tables[0] - tables[1]).max() < 0.1 * np.abs(tables[0]).max()


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    def kept(job: Job) -> Result:
        assert job.folder.is_dir()
        return Result([Row("calls lost of 7", 0, "calls", 0, at_most=True)])

    found = {"nginx": kept, "client": kept}
    monkeypatch.setattr(command, "PARTS", found)
    return found


def run(folder: Path, *more: str) -> int:
    return command.main(["--output", str(folder / "out"), "--results", str(folder / "RESULTS.md"), *more])


def test_the_section_is_written_when_every_part_has_run(tmp_path: Path, parts: dict[str, Any]) -> None:
    results = tmp_path / "RESULTS.md"
    results.write_text("# Results\n")
    assert run(tmp_path, "--only", "nginx") == 0
    assert results.read_text() == "# Results\n"
    assert run(tmp_path, "--only", "client") == 0
    begin, end = markers("small", "balance")
    assert begin in results.read_text()
    assert end in results.read_text()
    assert "written by scripts/balance" in begin
    assert results.read_text().count("calls lost of 7") == 2


def test_the_exit_status_says_what_is_wrong(tmp_path: Path, parts: dict[str, Any]) -> None:
    (tmp_path / "RESULTS.md").write_text("# Results\n")
    parts["nginx"] = lambda job: Result([Row("calls lost of 7", 1, "calls", 0, at_most=True)])
    assert run(tmp_path, "--no-results") == 1

    def broken(job: Job) -> Result:
        raise RuntimeError("a server has not started")

    parts["client"] = broken
    assert run(tmp_path, "--no-results") == 2
    assert run(tmp_path, "--only", "nginx", "--quick") == 1
    assert (tmp_path / "RESULTS.md").read_text() == "# Results\n"
