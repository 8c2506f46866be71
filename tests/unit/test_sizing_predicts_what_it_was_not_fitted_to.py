"""`scripts/sizing model`: what it says of measurements, which here come from a server whose numbers are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.load.judge import poisson
from bench.load.parts.rates import SEED, WARM_SHARE
from bench.sizing import check, simulate
from bench.sizing.__main__ import main
from bench.sizing.curve import SHARP, Curve
from bench.sizing.measured import NothingMeasured, read
from bench.sizing.model import Server
from bench.speed import machine
from bench.speed.results import Ran, Result

SERVER = Server(Curve(0.25, 2.0, SHARP))
SHARES = (0.25, 0.75, 1.0, 2.0)
SECONDS = 120.0


def write(folder: Path, piece: str, raw: dict[str, Any]) -> None:
    told = {**machine.describe(), "others": {"busy_cores": 0.0, "stolen_cores": 0.0}}
    Ran(piece, {}, told, "2026-11-29 00:00:00", 1.0, Result(raw=raw)).write(folder)


def closed(server: Server, callers: int) -> dict[str, Any]:
    seconds = simulate.closed_loop(server, callers, simulate.works(2000, 0.02, callers))
    p50, p95 = np.quantile(seconds, (0.5, 0.95))
    return {"callers": callers, "throughput": callers / seconds.mean(), "p50": float(p50), "p95": float(p95)}


def at(server: Server, share: float) -> dict[str, Any]:
    """A rate as scripts/load keeps it, of other draws than the model's."""
    moments = np.array(poisson(share * server.capacity, SECONDS, SEED))
    seconds = simulate.open_loop(server, moments, simulate.works(len(moments), 0.02, 99))
    answered, refused, p50, p95 = check._counted(moments, seconds, SECONDS)
    offered = float((moments >= WARM_SHARE * SECONDS).sum() / (SECONDS * (1 - WARM_SHARE)))
    return {
        "share": share,
        "offered": offered,
        "answered": answered,
        "refused": refused,
        "p50": p50,
        "p95": p95,
    }


def measured(folder: Path, server: Server = SERVER) -> Path:
    write(folder, "concurrency", {"points": [closed(server, callers) for callers in (1, 2, 4, 8, 16)]})
    rates = {
        "points": [at(server, share) for share in SHARES],
        "capacity": server.capacity,
        "seconds": SECONDS,
    }
    write(folder, "rates", rates)
    return folder


def test_a_server_that_is_as_the_model_is_found_and_predicted(tmp_path: Path) -> None:
    result, source = check.run(measured(tmp_path), None)
    assert source.piece == "concurrency"
    assert result.raw["curve"]["alone"] == pytest.approx(0.25, rel=0.03)
    assert result.raw["curve"]["gain"] == pytest.approx(2.0, rel=0.03)
    off = {row.what: row.value for row in result.rows}
    assert len(off) == 6
    assert off.pop("  at rates up to the capacity, at most") < 0.15, (
        "what is left is the draw of the calls' work"
    )
    assert max(off.values()) < 0.05, off
    kinds = {row[0]: row[1:3] for row in result.tables[2].rows}
    assert len(kinds) == 3
    wrong = kinds["one at a time (M/G/1)"]
    assert float(wrong[0].split()[0]) > 20, "a model that is wrong is seen to be"


def test_a_server_that_does_what_no_curve_does_is_not_predicted_and_it_says_so(tmp_path: Path) -> None:
    """From the fifth caller on it is suddenly twice as fast."""
    folder = measured(tmp_path)
    body = json.loads((folder / "concurrency.json").read_text())
    for point in body["result"]["raw"]["points"]:
        point["throughput"] *= 2 if point["callers"] > 4 else 1
    (folder / "concurrency.json").write_text(json.dumps(body))
    result, _ = check.run(folder, None)
    assert result.rows[0].value > 0.3


def test_closed_loops_of_the_speed_bench_choose_the_curve_too(tmp_path: Path) -> None:
    other = Server(Curve(0.25, 4.0, 1.0))
    points = [closed(other, callers) for callers in (1, 2, 4, 8, 16)]
    columns = [
        {
            "Concurrency": float(point["callers"]),
            "Inferences/Second": point["throughput"],
            "p50 latency": 1e6 * point["p50"],
            "p95 latency": 1e6 * point["p95"],
        }
        for point in points
    ]
    write(tmp_path / "speed", "perf-analyzer", {"rows": columns})
    write(tmp_path / "speed", "sweeps", {"callers": [{**point, "x": point["callers"]} for point in points]})
    runs, _ = read(measured(tmp_path / "load"), tmp_path / "speed")
    assert [run.name for run in runs] == [
        "scripts/load",
        "scripts/bench, perf-analyzer",
        "scripts/bench, sweeps",
    ]
    assert runs[1].throughput() == pytest.approx(runs[2].throughput())
    assert check.choose(runs[:1]).form.sharpness == SHARP
    assert check.choose(runs[1:]).form.sharpness == 1.0


def test_without_measurements_it_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "--load", str(tmp_path / "none")]) == 2
    assert "run scripts/load first" in capsys.readouterr().err
    write(tmp_path, "concurrency", {"points": [closed(SERVER, 1)]})
    write(tmp_path, "rates", {"points": []})
    with pytest.raises(NothingMeasured, match="without --quick"):
        read(tmp_path, None)


def test_the_section_is_written_with_its_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    results = tmp_path / "RESULTS.md"
    results.write_text("# Results\n\nOf others.\n", encoding="utf-8")
    given = [
        "model",
        "--load",
        str(measured(tmp_path / "load")),
        "--output",
        str(tmp_path),
        "--results",
        str(results),
    ]
    for _ in range(2):  # the second time in place of the first
        assert main(given) == 0
    text = results.read_text(encoding="utf-8")
    assert text.startswith("# Results\n\nOf others.\n")
    assert text.count("<!-- sizing small: begin, written by scripts/sizing -->") == 1
    assert "| p95 of calls at random, " in text
    assert "](pictures/sizing-small.svg)" in text
    assert (tmp_path / "pictures" / "sizing-small.svg").read_text(encoding="utf-8").count("<text") > 10
    assert "Calls at random:" in capsys.readouterr().out
