"""Lines of the access log: whole, in the file that is there now, and never a reason for a call to fail or to wait."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import time
from pathlib import Path

import pytest

from florence2_sam2.server import access_log
from florence2_sam2.server.access_log import AccessLog
from florence2_sam2.server.errors import InvalidRequest, Overloaded
from florence2_sam2.server.records import Record
from florence2_sam2.server.reports import Reports
from florence2_sam2.server.settings import Settings


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def log(path: Path | str, clock: Clock | None = None) -> tuple[AccessLog, list[str]]:
    said: list[str] = []
    return AccessLog(str(path), said.append, clock or Clock()), said


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    path, clock = tmp_path / "calls", Clock()
    opened, said = log(path, clock)
    opened.write(b"one")
    path.rename(tmp_path / "calls.1")
    opened.write(b"two")
    clock.now += access_log.LOOK_SECONDS
    opened.write(b"three")
    assert (tmp_path / "calls.1").read_bytes() == b"one\ntwo\n"
    assert path.read_bytes() == b"three\n"
    path.unlink()
    clock.now += access_log.LOOK_SECONDS
    opened.write(b"four")
    assert path.read_bytes() == b"four\n"
    with path.open("wb"):  # as logrotate's copytruncate does
        pass
    opened.write(b"five")
    assert path.read_bytes() == b"five\n"
    assert said == []


def test_a_full_disk_loses_lines_and_says_so_once_a_minute() -> None:
    clock = Clock()
    opened, said = log("/dev/full", clock)
    for _ in range(10):
        opened.write(b"line")
    assert opened.lost == 10
    assert said == ["access log: 1 lines are lost so far (No space left on device)"]
    clock.now += access_log.COMPLAIN_SECONDS
    opened.write(b"line")
    assert said[1:] == ["access log: 11 lines are lost so far (No space left on device)"]


def _write_with_little_room(path: str, tell: multiprocessing.connection.Connection) -> None:
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    opened, _ = log(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (15, resource.RLIM_INFINITY))
    opened.write(b"0123456789")
    opened.write(b"cut off")
    opened.write(b"lost")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    opened.write(b"whole")
    tell.send(opened.lost)


def test_a_line_that_was_cut_off_does_not_swallow_the_next_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_write_with_little_room, args=(str(tmp_path / "calls"), there))
    process.start()
    assert here.poll(30)
    assert here.recv() == 2
    process.join(30)
    assert (tmp_path / "calls").read_bytes() == b"0123456789\ncut \nwhole\n"


def test_a_folder_that_is_away_for_a_while(tmp_path: Path) -> None:
    folder, clock = tmp_path / "logs", Clock()
    opened, said = log(folder / "calls", clock)
    opened.write(b"lost")
    folder.mkdir()
    opened.write(b"kept")
    assert (folder / "calls").read_bytes() == b"kept\n"
    assert len(said) == 1


@pytest.mark.parametrize("wrong", ["", "nowhere/calls"], ids=["a folder", "in no folder"])
def test_what_cannot_be_written_is_known_at_the_start(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(ValueError, match=r"^access_log: ") as refused:
        access_log.check(str(tmp_path / wrong))
    assert str(tmp_path) not in str(refused.value)
    access_log.check(str(tmp_path / "calls"))
    access_log.check("-")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"^access_log: the file cannot be written"):
        access_log.check(str(tmp_path / "pipe"))


def test_a_disk_that_does_not_answer_holds_nobody_up(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # opening it waits for a reader, who never comes
    reports = Reports(Settings(access_log=str(pipe)), print)
    took = []
    for _ in range(5000):
        began = time.perf_counter()
        reports.put(Record("segment", "id", keeps=True), None, None)
        took.append(time.perf_counter() - began)
    assert sorted(took)[len(took) // 2] < 1e-4
    began = time.monotonic()
    reports.close()
    assert time.monotonic() - began < 10
    os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))  # let the thread go


def test_a_line_says_what_and_not_whose(tmp_path: Path) -> None:
    path = tmp_path / "calls"
    reports = Reports(Settings(access_log=str(path)), pytest.fail)
    fine = Record("segment", 'a "quoted" id', keeps=True)
    fine.facts["objects"] = 3
    secret = InvalidRequest("options.my password\n{}", "unknown key")
    reports.put(fine, None, None)
    reports.put(Record("segment", "2", keeps=True), None, secret)
    reports.put(Record("segment", "3", keeps=True), None, InvalidRequest("options.boxes[12]", "four numbers"))
    reports.put(Record("segment", "4", keeps=True), None, Overloaded("the server is full"))
    reports.close()
    lines = [json.loads(line) for line in path.read_text("ascii").splitlines()]
    assert [line["code"] for line in lines] == ["OK", *2 * ["INVALID_ARGUMENT"], "UNAVAILABLE"]
    assert lines[0]["request_id"] == 'a "quoted" id'
    assert lines[0]["objects"] == 3
    assert 0 <= lines[0]["seconds"] < 5
    assert [line.get("field") for line in lines] == [None, "other", "options.boxes[12]", None]
    assert [line.get("error") for line in lines] == [None, None, None, "the server is full"]
    assert path.stat().st_mode & 0o777 == 0o640 & ~_umask()


def _umask() -> int:
    before = os.umask(0)
    os.umask(before)
    return before
