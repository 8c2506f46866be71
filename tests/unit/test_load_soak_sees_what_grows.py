"""`scripts/soak`: slopes that single looks do not move, what is looked at, and the verdict."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.load import asked, mix, soak, trend, watch
from bench.load.watch import Look
from bench.speed.results import Result

SECONDS = [float(n) for n in range(301)]
PLAN = soak.Plan(300)
FLAT = Look(0.0, 900.0, 600.0, 50.0, 620.0, 400, 300, 14, (11, 12))


def test_a_slope_is_that_of_most_looks() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 5, len(SECONDS))
    values = 100 + np.asarray(SECONDS) / 60 * 3 + noise
    assert 60 * trend.slope(SECONDS, values.tolist()) == pytest.approx(3, abs=0.5)
    values[rng.choice(len(values), 60, replace=False)] += 500  # a fifth of the looks
    assert 60 * trend.slope(SECONDS, values.tolist()) == pytest.approx(3, abs=1.0)
    least_squares = 60 * np.polyfit(SECONDS[200:], [*values[200:-30], *(values[-30:] + 500)], 1)[0]
    assert least_squares > 50, "which a mean would not survive"


def test_what_does_not_change_has_no_slope_at_all() -> None:
    assert trend.slope([0.0, 1.0, 2.0], [7, 7, 7]) == 0.0
    outlier = [400] * 300 + [700]
    assert trend.slope(SECONDS, outlier) == 0.0
    assert trend.slope([0.0, 2.0], [1.0, 5.0]) == 2.0
    assert trend.slope([0.0, 2.0], [5.0, 1.0]) == -2.0


def test_many_looks_are_thinned_and_give_the_same() -> None:
    many = np.arange(20_000) / 10
    assert trend.slope(many.tolist(), (0.5 * many).tolist()) == pytest.approx(0.5)


def test_growth_is_a_minutes_and_leaves_the_first_one_out() -> None:
    values = [100 + 2 * min(at, 200) for at in SECONDS]
    assert trend.growth(SECONDS, values, 60.0) > 0
    assert trend.growth(SECONDS, values, 200.0) == 0
    assert trend.growth(SECONDS, [at / 10 for at in SECONDS], 60.0) == pytest.approx(6)
    with pytest.raises(ValueError, match="two moments"):
        trend.growth(SECONDS, values, 300.0)


def test_a_look_sees_descriptors_threads_and_regions(tmp_path: Path) -> None:
    prefix = f"soak_test_{os.getpid()}_"
    region = Path("/dev/shm") / f"{prefix}one"
    before = watch.look([os.getpid()], prefix)
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    try:
        with (tmp_path / "file").open("wb"):
            region.write_bytes(bytes(2**20))
            during = watch.look([os.getpid()], prefix, 5.0)
    finally:
        region.unlink()
        release.set()
        thread.join()
    assert during.descriptors == before.descriptors + 1
    assert during.threads == before.threads + 1
    assert (before.regions, during.regions) == (0, 1)
    assert during.shm == pytest.approx(1, abs=0.1)
    assert (during.seconds, during.processes) == (5.0, (os.getpid(),))
    status = Path("/proc/self/status").read_text()
    kilobytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert during.rss == pytest.approx(kilobytes / 1024, rel=0.2)
    assert 0 < during.pss <= during.rss * 1.01
    [(name, private)] = during.private.items()
    assert name.split()[0] == str(os.getpid())
    assert 0 < private <= during.rss * 1.01


def test_a_process_that_has_ended_holds_nothing() -> None:
    gone = watch.look([2**22 - 1], "no_such_prefix_")
    assert (gone.rss, gone.pss, gone.descriptors, gone.threads, gone.regions) == (0, 0, 0, 0, 0)


def test_looks_are_taken_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "server_processes", lambda: [os.getpid()])
    with watch.Watch("no_such_prefix_", every=0.02) as looking:
        while len(looking.looks) < 5:
            threading.Event().wait(0.01)
    seconds = [one.seconds for one in looking.looks]
    assert seconds == sorted(seconds)
    count = len(seconds)
    threading.Event().wait(0.1)
    assert len(looking.looks) == count, "it looks on when it is over"


def result(tally: mix.Tally | None = None, after: Look = FLAT, **grown: float) -> Result:
    """Of a soak whose numbers grow by so much a minute, all but RSS's first minute, which is wild."""

    def at(seconds: float) -> Look:
        values: dict[str, Any] = {
            name: getattr(FLAT, name) + rate * seconds / 60 for name, rate in grown.items()
        }
        if seconds < 60:
            values["rss"] = 10 * seconds
        return replace(FLAT, seconds=seconds, **values)

    return soak.result_of([at(s) for s in SECONDS], tally or mix.Tally(), PLAN, 4, 30, FLAT, after)


def missed(found: Result) -> list[str]:
    return [row.what for row in found.rows if not row.met]


def test_nothing_that_grows_is_a_pass() -> None:
    found = result()
    assert missed(found) == []
    assert len(found.rows) == 8
    assert all(row.target is not None for row in found.rows)
    assert len(found.raw["looks"]) == 301


def test_it_says_which_process_grows() -> None:
    def at(seconds: float) -> Look:
        return replace(FLAT, seconds=seconds, private={"11 one": 100.0, "12 other": 200 + seconds / 10})

    found = soak.result_of([at(s) for s in SECONDS], mix.Tally(), PLAN, 4, 30, at(0), at(300))
    [table] = [table for table in found.tables if table.head[0] == "process"]
    assert table.rows == [
        ["one", "100", "100", "100", "100", "+0.00"],
        ["other", "206", "206", "230", "230", "+6.00"],
    ]


@pytest.mark.parametrize(
    ("name", "rate", "what"),
    [
        ("rss", 1.2, "growth of the sum of RSS"),
        ("total", 1.2, "growth of memory, each page once"),
        ("shm", 0.5, "growth of /dev/shm"),
        ("regions", 1.0, "growth of its regions"),
        ("descriptors", 1.0, "growth of descriptors"),
        ("threads", 1.0, "growth of threads"),
    ],
)
def test_each_number_that_grows_is_a_miss(name: str, rate: float, what: str) -> None:
    assert missed(result(**{name: rate})) == [what]
    assert missed(result(**{name: -rate})) == []


def test_a_little_more_memory_is_allowed() -> None:
    assert missed(result(rss=0.8, total=0.8)) == []


def test_a_lost_process_and_a_wrong_outcome_are_misses() -> None:
    assert missed(result(after=replace(FLAT, processes=(11, 13)))) == ["processes of the server that ended"]
    tally = mix.Tally(faults=["plain: Unexpected: it differs"])
    tally.calls["plain"] = 9
    found = result(tally)
    assert missed(found) == ["calls that ended otherwise than they must"]
    assert found.tables[1].rows == [["plain: Unexpected: it differs"]]
    assert "9 calls of 4 callers in 300 s, and 30 clients killed at work: 9 plain." in found.tables[0].note


def test_a_soak_judges_after_a_minute_and_a_quick_one_after_a_third() -> None:
    assert soak.Plan(300).warm == 60
    assert soak.Plan(6).warm == 2


def test_the_mix_has_every_kind_and_its_pictures_every_format() -> None:
    assert sum(mix.KINDS.values()) == 100
    assert len({str(heavy) for heavy in asked.HEAVY}) == 3
    assert {name for name in vars(mix.Mix) if name.startswith("_")} >= {kind.__name__ for kind in mix.KINDS}
    files = asked.pictures(42)
    assert len(set(files)) == 42
    starts = {file[:2] for file in files}
    assert starts == {b"\xff\xd8", b"\x89P", b"RI", b"BM", b"GI"}
    assert asked.pictures(3) == files[:3]
