"""The benches' tables, and the section between markers in a file that people write too."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.speed import machine, plots, report
from bench.speed.report import NoMarkers, markdown, markers, replace_section, write_section
from bench.speed.results import Ran, Result, Row, Table

BEGIN, END = markers("small")


def ran(piece: str = "side", error: str = "", **result: object) -> Ran:
    settings = {"subject": "small", "tokens": None, "quick": False}
    told = {**machine.describe(), "others": {"busy_cores": 0.25, "stolen_cores": 0.01}}
    return Ran(piece, settings, told, "2026-11-24 20:00:00", 1.5, Result(**result), error)


def test_a_section_is_put_at_the_end_and_replaced_there() -> None:
    once = replace_section("# Results\n\nBy hand.\n", "small", "one")
    assert once == f"# Results\n\nBy hand.\n\n{BEGIN}\none\n{END}\n"
    assert replace_section(once, "small", "one") == once
    both = replace_section(once, "full", "two")
    again = replace_section(both + "\nMore by hand.\n", "small", "three\nlines")
    assert again == both.replace("\none\n", "\nthree\nlines\n") + "\nMore by hand.\n"


@pytest.mark.parametrize(
    "text",
    [
        f"{BEGIN}\n",
        f"{END}\n",
        f"{END}\n{BEGIN}\n",
        f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n",
        f"{BEGIN}{BEGIN}{END}",
    ],
)
def test_a_file_with_other_markers_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text(text)
    with pytest.raises(NoMarkers, match="once each"):
        write_section(path, "small", "new")
    assert path.read_text() == text


def test_a_table_stands_in_columns() -> None:
    assert markdown(["a", "long head"], [["1", "2"], ["a|b", ""]]) == (
        "| a    | long head |\n| ---- | --------- |\n| 1    | 2         |\n| a\\|b |           |"
    )


def test_a_section_tells_targets_misses_failures_and_the_machine() -> None:
    pieces = [
        ran(
            rows=[Row("speed", 1.7, "×", 1.8, False, 1.6, 1.9), Row("time", 5.0, "s", 6.0, True)],
            tables=[Table("Details", ["x"], [["y"]], "A note.")],
        ),
        ran("start", "Traceback\n  deep inside\nRuntimeError: it has ended"),
    ]
    text = report.section("small checkpoints", pieces, [("a plot", "../docs/plot.svg")])
    assert "## Speed: small checkpoints" in text
    assert "| speed | ≥ 1.80× | 1.70× (1.60× to 1.90×) | **missed** |" in text
    assert "| time  | ≤ 6.0 s | 5.0 s                  | met        |" in text
    assert "start failed: RuntimeError: it has ended" in text
    assert "**Details**\n\n| x   |\n| --- |\n| y   |\n\nA note." in text
    assert "2026-11-24" in text
    assert f"{machine.cores()} cores" in text
    assert "at most 0.25 cores" in text
    assert "![a plot](../docs/plot.svg)" in text
    assert "start failed" in report.terminal("small", pieces)


def test_results_survive_the_way_through_a_file(tmp_path: Path) -> None:
    one = ran(
        rows=[Row("speed", 1.7, "×", 1.8, False, 1.6, 1.9, "note")],
        tables=[Table("Details", ["x"], [["y"]])],
        raw={"seconds": [1.0, 2.0], "of": {"16": [0.5]}},
    )
    assert Ran.read(one.write(tmp_path / "deep" / "er")) == one


def test_plots_are_drawn_from_kept_values(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    stages = dict.fromkeys(plots.STAGES, 10.0)
    points = [{"x": x, "seconds": 0.1 * x, "stages_ms": stages} for x in (1, 10)]
    callers = [{"x": x, "throughput": 2.0 * x, "p50": 0.1, "p95": 0.2, "calls": 4} for x in (1, 2)]
    part = {"name": "decoder", "limit": 0.008, "seconds": {"median": 0.01}}
    pieces = [
        ran("side", raw={"greedy": {"served": [1.0, 1.1], "reference": [2.0, 2.2], "agreement": {}}}),
        ran("roofline", raw={"components": [part]}),
        ran("sweeps", raw={**dict.fromkeys(plots.SWEEPS, points), "callers": callers}),
        ran("decoding", raw={"tokens": 4, "steps": {"1": [0.01], "16": [0.02]}, "engine": {}}),
    ]
    drawn = plots.draw("small", pieces, tmp_path)
    assert [path.name for _, path in drawn] == [
        f"speed-small-{name}.svg" for name in ("sides", "roofline", "sweeps", "decoding")
    ]
    for _, path in drawn:
        assert 1000 < path.stat().st_size < 100_000
    first = drawn[0][1].read_bytes()
    plots.draw("small", pieces, tmp_path)
    assert drawn[0][1].read_bytes() == first, "the same values give another file"
    failed = [ran("side", "it failed"), ran("decoding", raw={})]
    assert plots.draw("small", failed, tmp_path) == []
