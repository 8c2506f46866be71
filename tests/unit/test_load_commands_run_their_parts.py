"""`scripts/load` and `scripts/soak`: what runs, what the exit status says, what is written and drawn."""

from __future__ import annotations

import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.load import __main__ as command
from bench.load import report, soak
from bench.load.job import Job, Running
from bench.load.judge import Point
from bench.load.parts import concurrency, priorities, rates, slow_urls
from bench.load.watch import Look
from bench.speed import perf_analyzer, prepare
from bench.speed.bench import Bench, Choices
from bench.speed.report import markers, replace_section
from bench.speed.results import Ran, Result, Row

MACHINE = {
    **dict.fromkeys(("cpu", "system", "python", "tritonserver", "commit", "onnxruntime"), "x"),
    **dict.fromkeys(("torch", "transformers"), "not installed"),
    "vectors": [],
    "cores": 2,
    "memory_gb": 8.0,
}


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Made-up parts in place of the real ones; what has run is in the list."""
    ran: list[str] = []

    def kept(job: Job) -> Result:
        ran.append("kept")
        job.found(7.0, 2)
        return Result([Row("errors", 0, "calls", 0, True), Row("to be read", 3.0, "s")])

    def missed(job: Job) -> Result:
        ran.append("missed")
        return Result([Row("slow", 3.0, "s", 2.0, True)], raw={"capacity": job.capacity()})

    def broken(job: Job) -> Result:
        ran.append("broken")
        raise RuntimeError("the server has ended")

    modules = {run.__name__: SimpleNamespace(run=run, __doc__="A part.") for run in (kept, missed, broken)}
    monkeypatch.setattr(command, "PARTS", tuple(modules))
    monkeypatch.setattr(command, "_part", modules.__getitem__)
    return ran


def arguments(folder: Path, *more: str) -> list[str]:
    results = folder / "RESULTS.md"
    if not results.exists():
        results.write_text("# Results\n")
    return ["--output", str(folder / "out"), "--results", str(results), "--no-perf-analyzer", *more]


@pytest.mark.parametrize(
    ("only", "status"), [(["kept"], 0), (["missed", "kept"], 1), (["kept", "broken", "missed"], 2)]
)
def test_the_exit_status_says_what_is_missed_or_broken(
    tmp_path: Path, parts: list[str], only: list[str], status: int
) -> None:
    assert command.main(arguments(tmp_path, "--only", *only)) == status
    assert parts == [name for name in ("kept", "missed", "broken") if name in only]


def test_what_the_first_part_finds_is_the_next_ones_capacity(tmp_path: Path, parts: list[str]) -> None:
    command.main(arguments(tmp_path, "--only", "kept", "missed"))
    assert Ran.read(tmp_path / "out" / "small" / "missed.json").result.raw == {"capacity": 7.0}


def test_the_section_is_written_when_every_part_has_run(tmp_path: Path, parts: list[str]) -> None:
    results = tmp_path / "RESULTS.md"
    command.main(arguments(tmp_path, "--only", "kept", "missed"))
    assert results.read_text() == "# Results\n"
    command.main(arguments(tmp_path, "--only", "broken"))
    text = results.read_text()
    assert all(marker in text for marker in markers("small", "load"))
    assert "## Load: Small checkpoints" in text
    assert "| slow       | ≤ 2.0 s   | 3.0 s    | **missed** |" in text
    assert "broken failed: RuntimeError: the server has ended" in text


@pytest.mark.parametrize("more", [["--quick"], ["--no-results"], ["--url", "localhost:1"]])
def test_runs_that_say_nothing_of_this_machine_are_not_written(
    tmp_path: Path, parts: list[str], more: list[str]
) -> None:
    command.main(arguments(tmp_path, *more))
    assert parts == ["kept", "missed", "broken"]
    assert (tmp_path / "RESULTS.md").read_text() == "# Results\n"


def test_the_parts_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(command.PARTS)
    assert all(len(line.split()) > 3 for line in lines), "a part does not say what it is"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--only", "everything"], "invalid choice: 'everything'"),
        (["--model-repository", "x", "--url", "y"], "leave out --full"),
        (["--full", "x", "--model-repository", "y"], "exclude each other"),
    ],
)
def test_wrong_arguments_are_named(wrong: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(wrong)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_the_soak_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: list[float | None] = [0.5, 1.5, None]

    def run(bench: Bench, plan: soak.Plan) -> Result:
        assert (plan.seconds, plan.callers, plan.seed, plan.quick) == (9, 3, 5, True)
        outcome = outcomes.pop(0)
        if outcome is None:
            raise RuntimeError("it has ended")
        return Result([Row("growth", outcome, "MB/min", 1.0, True)])

    monkeypatch.setattr(soak, "soak", run)
    given = ["--quick", "--seconds", "9", "--callers", "3", "--seed", "5", "--output", str(tmp_path)]
    assert [soak.main(given) for _ in range(3)] == [0, 1, 2]


def test_only_a_whole_soak_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Result([Row("growth", 0.5, "MB/min", 1.0, True)])
    monkeypatch.setattr(soak, "soak", lambda bench, plan: rows)
    results = tmp_path / "RESULTS.md"
    results.write_text("# Results\n")
    given = ["--output", str(tmp_path), "--results", str(results)]
    for more in (["--quick"], ["--no-results"], ["--seconds", "299"], ["--model-repository", "x"]):
        assert soak.main([*given, *more]) == 0
        assert results.read_text() == "# Results\n"
    assert soak.main(given) == 0
    assert "## Soak: Small checkpoints" in results.read_text()


def test_a_server_of_somebody_elses_is_not_asked_to_fetch(tmp_path: Path) -> None:
    job = Job(Bench(prepare.small(), tmp_path, Choices(quick=True)), Running("localhost:1"), with_tool=False)
    found = slow_urls.run(job)
    assert not found.rows
    assert "somebody else's" in found.tables[0].note


def test_no_two_requests_of_a_run_have_the_same_number(tmp_path: Path) -> None:
    job = Job(Bench(prepare.small(), tmp_path, Choices(quick=True)), Running("localhost:1"), with_tool=False)
    first, second = job.numbers(3), job.numbers(2)
    assert [*first, *second] == [0, 1, 2, 3, 4]
    assert second.stop < priorities.FIRST


PROGRAM = """#!/bin/sh
echo "$*" >> {log}
if [ -e {fails} ]; then echo "Failed to obtain"; echo "the server is full" >&2; exit 99; fi
for word; do [ "$last" = -f ] && report=$word; last=$word; done
printf 'Request Rate,Inferences/Second,p50 latency\\n3.5,3.4,250000\\n' > "$report"
"""


def test_perf_analyzer_is_given_callers_or_a_rate(tmp_path: Path) -> None:
    program, log, fails = tmp_path / "program", tmp_path / "log", tmp_path / "fails"
    program.write_text(PROGRAM.format(log=log, fails=fails))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    tool, inputs = perf_analyzer.Tool(program, {}), tmp_path / "inputs.json"
    running = Running("localhost:1", {"admin": "key"})
    found = perf_analyzer.measure_rate(tool, running, inputs, 3.5, 40)
    assert found.columns == {"Request Rate": 3.5, "Inferences/Second": 3.4, "p50 latency": 250000.0}
    perf_analyzer.measure(tool, Running("localhost:1"), inputs, 4, 40, 10)
    rate, callers = log.read_text().splitlines()
    assert "--request-rate-range 3.500 --request-distribution poisson --async" in rate
    assert "-H triton-grpc-protocol-admin:key" in rate
    assert "--concurrency-range 4:4" in callers
    assert "-H" not in callers.split()
    fails.touch()
    with pytest.raises(RuntimeError, match=r"3.50 requests a second ended with 99: .*the server is full"):
        perf_analyzer.measure_rate(tool, running, inputs, 3.5, 40)


def test_sections_of_several_kinds_stand_beside_each_other() -> None:
    text = replace_section("# Results\n", "small", "speed's")
    text = replace_section(text, "small", "load's", "load")
    text = replace_section(text, "small", "soak's", "soak")
    assert replace_section(text, "small", "new", "load") == text.replace("load's", "new")
    assert "written by scripts/soak" in markers("small", "soak")[0]


def ran(piece: str, raw: dict[str, Any]) -> Ran:
    told = {**MACHINE, "others": {"busy_cores": 0.0, "stolen_cores": 0.0}}
    return Ran(piece, {}, told, "2026-11-24 20:00:00", 1.0, Result(raw=raw))


def test_plots_and_sections_are_made_from_kept_values(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    point = Point(2.0, 1.5, 0.5, 0, 0.1, 0.2, 0.3, 0.01, 0.001).as_json()
    callers = {"throughput": 2.0, "p50": 0.1, "p95": 0.2, "p99": 0.3}
    look = Look(0.0, 900.0, 600.0, 50.0, 620.0, 400, 300, 14, (11, 12)).as_json()
    load = [
        ran("concurrency", {"points": [{"callers": count, **callers} for count in (1, 2)]}),
        ran("rates", {"points": [point, point], "capacity": 1.5}),
    ]
    soaked = [ran("soak", {"looks": [look, {**look, "seconds": 9.0}], "warm": 3.0})]
    results = tmp_path / "RESULTS.md"
    results.write_text("# Results\n")
    report.write("load", results, prepare.small(), load)
    report.write("soak", results, prepare.small(), soaked)
    names = ("load-small-concurrency", "load-small-rates", "soak-small")
    assert sorted(path.stem for path in (tmp_path / "pictures").iterdir()) == sorted(names)
    text = results.read_text()
    for name in names:
        assert f"](pictures/{name}.svg)" in text
        assert 1000 < (tmp_path / "pictures" / f"{name}.svg").stat().st_size < 100_000
    assert "torch" not in text, "what is not installed is not named"
    assert report.paintings("load", "small", {"rates": {}, "soak": soaked[0].result.raw}) == []


def test_bounds_are_those_of_the_specification() -> None:
    assert (concurrency.LEAST_KEPT, rates.LEAST_GOODPUT, rates.SHARES[-1]) == (0.9, 0.9, 4.0)
    assert concurrency.CALLERS == (1, 2, 4, 8, 16)
    assert (priorities.AT_MOST, slow_urls.AT_MOST, soak.MB_A_MINUTE) == (2.0, 1.2, 1.0)
