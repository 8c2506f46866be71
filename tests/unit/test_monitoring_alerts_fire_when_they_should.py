"""Each alert fires in the trouble that it is for, and on a server that is well none does (promtool runs the rules)."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import monitoring
import pytest

from florence2_sam2.server.metrics import DECLARED

STEP_SECONDS = 60
JOB, ONE, OTHER = "florence2-sam2", "one:8002", "other:8002"
AT = 1.25  # hours after which one looks: the slowest alert needs one
LATE = 6.5  # for the longest window
HOURS = 6.6  # of samples


def steps(hours: float) -> int:
    return round(hours * 3600 / STEP_SECONDS)


def steady(rate: float, hours: float = HOURS) -> str:
    """A counter that rises by `rate` a second."""
    return rising((rate, hours))


def rising(*parts: tuple[float, float]) -> str:
    """A counter that rises by so much a second for so many hours, and so on."""
    value, written = 0.0, []
    for rate, hours in parts:
        step, count = rate * STEP_SECONDS, steps(hours)
        written.append(f"{value:.6f}+{step:.6f}x{count}")
        value += step * (count + 1)
    return " ".join(written)


def constant(value: float, hours: float = HOURS) -> str:
    return f"{value:g}x{steps(hours)}"


def durations(rate: float, *parts: tuple[float, float]) -> dict[str, str]:
    """A histogram of interactive calls that take so many seconds for so many hours, and so on."""
    rows = {}
    for bound in (*DECLARED["segment_duration_seconds"].buckets, float("inf")):
        within = [(rate * (seconds <= bound), hours) for seconds, hours in parts]
        le = "+Inf" if bound == float("inf") else f"{bound:g}"
        rows[DURATION % f'_bucket{{priority="interactive", le="{le}"}}'] = rising(*within)
    spent = [(rate * seconds, hours) for seconds, hours in parts]
    return {
        **rows,
        DURATION % '_count{priority="interactive"}': rising(*((rate, hours) for _, hours in parts)),
        DURATION % '_sum{priority="interactive"}': rising(*spent),
    }


def requests(code: str, model: str = "segment") -> str:
    return f'florence2_sam2_requests_total{{model="{model}", code="{code}"}}'


DURATION = "florence2_sam2_segment_duration_seconds%s"
UPTIME = 'florence2_sam2_uptime_seconds{model="segment"}'
IN_FLIGHT = 'florence2_sam2_requests_in_flight{model="segment"}'
REFUSED = 'florence2_sam2_segment_refused_total{reason="queue full"}'
WAITING = 'florence2_sam2_segment_waiting{priority="interactive"}'
INFO = (
    'florence2_sam2_info{version="1", florence2_sha256="%s", sam2_sha256="b", precision="fp32", '
    'sam2_precision="fp32", decoder_weights="float"}'
)
MEMORY = 'florence2_sam2_memory_results_total{how="%s"}'

# One call a second of 2 s, one in ten a caller's mistake, one in a hundred refused.
WELL: Mapping[str, str] = {
    "up": constant(1),
    INFO % "a": constant(1),
    'florence2_sam2_limit{setting="max_queue"}': constant(32),
    UPTIME: steady(1),
    'florence2_sam2_uptime_seconds{model="florence2"}': steady(1),
    requests("OK"): steady(0.89),
    requests("INVALID_ARGUMENT"): steady(0.1),
    requests("UNAVAILABLE"): steady(0.01),
    requests("CANCELLED"): steady(0.01),
    requests("INTERNAL"): constant(0),
    requests("INTERNAL", "florence2"): constant(0),
    IN_FLIGHT: constant(4),
    REFUSED: steady(0.01),
    WAITING: constant(1),
    MEMORY % "kept": steady(1),
    MEMORY % "made": steady(5),
    MEMORY % "evicted": steady(1),
    'florence2_sam2_masks_stored_total{how="stored"}': steady(1),
    'florence2_sam2_masks_stored_total{how="failed"}': constant(0),
    "nv_cpu_memory_used_bytes": constant(6e9),
    "nv_cpu_memory_total_bytes": constant(8e9),
    **durations(0.89, (2.0, HOURS)),
}


@dataclass(frozen=True)
class Trouble:
    """A server that is well but for `series`. After `at` hours exactly these alerts fire: name → labels, summary."""

    name: str
    fires: Mapping[str, tuple[dict[str, str], str]]
    series: Mapping[str, str] = field(default_factory=dict)
    other: Mapping[str, str] = field(default_factory=dict)  # of a second server
    without: tuple[str, ...] = ()  # series that are not there, by how their names begin
    at: float = AT


SILENT = {
    name: constant(100)
    for name in WELL
    if name.startswith(("florence2_sam2_requests_total", DURATION % "", "florence2_sam2_segment_refused"))
}
SERVER = {"job": JOB, "instance": ONE}
TROUBLES = [
    Trouble("nothing", {}),
    Trouble(
        "an idle server", {}, without=("florence2_sam2_requests_total", "florence2_sam2_segment_duration")
    ),
    Trouble("one restart", {}, {UPTIME: f"{steady(1, AT - 0.1)} {steady(1, 0.2)}"}),
    Trouble(
        "the page is gone",
        {"Florence2Sam2Down": (SERVER, f"{ONE} does not answer Prometheus")},
        {
            "up": constant(0),
            UPTIME: constant(9),
            'florence2_sam2_uptime_seconds{model="florence2"}': constant(9),
        },
    ),
    Trouble(
        "no server is known",
        {"Florence2Sam2Absent": ({}, "Prometheus knows no server of florence2-sam2")},
        without=("",),
    ),
    Trouble(
        "a dead process",
        {
            "Florence2Sam2ModelDead": (
                {**SERVER, "model": "florence2"},
                f"florence2 of {ONE} is dead or hangs",
            )
        },
        {'florence2_sam2_uptime_seconds{model="florence2"}': rising((1, AT - 0.1), (0, 0.2))},
    ),
    Trouble(
        "calls and no answers",
        {"Florence2Sam2Stuck": (SERVER, f"{ONE} has calls in flight and answers none")},
        SILENT,
    ),
    Trouble("no calls and no answers", {}, {**SILENT, IN_FLIGHT: constant(0)}),
    Trouble(
        "three restarts",
        {"Florence2Sam2Restarts": (SERVER, f"{ONE} was started again 3 times within half an hour")},
        {UPTIME: " ".join([steady(1, 0.9), *[steady(1, 0.1)] * 3])},
    ),
    Trouble(
        "bugs",
        {
            "Florence2Sam2Failing": (SERVER, f"{ONE} fails 9.009% of the calls"),
            "Florence2Sam2InternalErrors": (
                {**SERVER, "model": "segment"},
                f"segment of {ONE} has answered INTERNAL",
            ),
        },
        {requests("INTERNAL"): steady(0.1), requests("OK"): steady(0.89)},
    ),
    Trouble(
        "one bug",
        {
            "Florence2Sam2InternalErrors": (
                {**SERVER, "model": "florence2"},
                f"florence2 of {ONE} has answered INTERNAL",
            )
        },
        {requests("INTERNAL", "florence2"): f"{constant(0, AT - 0.1)} {constant(1, 0.2)}"},
    ),
    Trouble(
        "a dead part",
        {"Florence2Sam2Failing": (SERVER, f"{ONE} fails 19.8% of the calls")},
        {requests("UNAVAILABLE"): steady(0.21), requests("OK"): steady(0.69)},
    ),
    Trouble(
        "no room",
        {"Florence2Sam2Refusing": (SERVER, f"{ONE} refuses 19.8% of the calls for want of room")},
        {requests("UNAVAILABLE"): steady(0.2), requests("OK"): steady(0.7), REFUSED: steady(0.2)},
    ),
    Trouble(
        "a long queue",
        {"Florence2Sam2Waiting": (SERVER, f"{ONE} keeps 20 calls waiting")},
        {WAITING: constant(12), 'florence2_sam2_segment_waiting{priority="bulk"}': constant(8)},
    ),
    Trouble("some callers without patience", {}, {requests("CANCELLED"): steady(0.15)}),
    Trouble(
        "callers without patience",
        {"Florence2Sam2GivenUp": (SERVER, f"{ONE}: callers give up 45.05% of their calls")},
        {
            requests("CANCELLED"): steady(0.5),
            requests("OK"): steady(0.5),
            requests("INVALID_ARGUMENT"): steady(0.1),
        },
    ),
    Trouble(
        "all calls are slow",
        {
            "Florence2Sam2SlowNow": (
                {"job": JOB},
                f"{JOB}: 100% of the interactive calls take longer than 10 s",
            ),
            "Florence2Sam2Slow": (
                {"job": JOB},
                f"{JOB}: 100% of the interactive calls take longer than 10 s",
            ),
        },
        durations(0.89, (12.0, HOURS)),
    ),
    Trouble(
        "half of the calls are slow",
        {"Florence2Sam2Slow": ({"job": JOB}, f"{JOB}: 50% of the interactive calls take longer than 10 s")},
        other=durations(0.89, (12.0, HOURS)),
    ),
    Trouble("calls as slow as they may be", {}, durations(0.89, (10.0, HOURS))),
    Trouble("slow for some minutes", {}, durations(0.89, (2.0, AT - 0.2), (12.0, 0.3))),
    Trouble(
        "slow for half an hour, after five that were not",
        {},
        durations(0.89, (2.0, LATE - 1), (12.0, 1.1)),
        at=LATE - 0.4,
    ),
    Trouble(
        "slow for an hour, and well again",
        {
            "Florence2Sam2Slow": (
                {"job": JOB},
                f"{JOB}: 63.33% of the interactive calls take longer than 10 s",
            )
        },
        durations(0.89, (12.0, AT - 0.2), (2.0, 1.0)),
    ),
    Trouble(
        "a memory that is too small",
        {"Florence2Sam2MemoryTooSmall": (SERVER, f"{ONE} forgets pictures that come again")},
        {MEMORY % "evicted": steady(4)},
    ),
    Trouble(
        "pictures that never come again", {}, {MEMORY % "evicted": steady(5), MEMORY % "kept": constant(0)}
    ),
    Trouble(
        "a store that is away",
        {"Florence2Sam2MasksNotStored": (SERVER, f"{ONE} cannot write masks to the object store")},
        {'florence2_sam2_masks_stored_total{how="failed"}': f"{constant(0, AT - 0.1)} {constant(1, 0.2)}"},
    ),
    Trouble(
        "a full machine",
        {"Florence2Sam2MachineMemory": (SERVER, f"The memory of {ONE}'s machine is 97.5% full")},
        {"nv_cpu_memory_used_bytes": constant(7.8e9)},
    ),
    Trouble(
        "a forgotten upgrade",
        {"Florence2Sam2MixedModels": ({"job": JOB}, f"{JOB}: the servers run 2 different sets of models")},
        other={INFO % "c": constant(1)},
    ),
]


def labelled(series: Mapping[str, str], instance: str) -> list[dict[str, str]]:
    rows = []
    for name, values in series.items():
        metric, _, labels = name.rstrip("}").partition("{")
        own = f'job="{JOB}", instance="{instance}"'
        rows.append({"series": f"{metric}{{{labels + ', ' if labels else ''}{own}}}", "values": values})
    return rows


def as_test(trouble: Trouble) -> dict[str, Any]:
    """As promtool reads it: each alert that is shipped, and whether it fires."""
    series = {
        name: values
        for name, values in {**WELL, **trouble.series}.items()
        if not any(name.startswith(begin) for begin in trouble.without)
    }
    expected = []
    for name, alert in monitoring.alerts().items():
        row: dict[str, Any] = {"eval_time": f"{int(trouble.at * 60)}m", "alertname": name, "exp_alerts": []}
        if name in trouble.fires:
            labels, summary = trouble.fires[name]
            row["exp_alerts"] = [
                {
                    "exp_labels": {**labels, **alert["labels"]},
                    "exp_annotations": {**alert["annotations"], "summary": summary},
                }
            ]
        expected.append(row)
    return {
        "name": trouble.name,
        "interval": f"{STEP_SECONDS}s",
        "input_series": labelled(series, ONE) + labelled(trouble.other, OTHER),
        "alert_rule_test": expected,
    }


def run(folder: Path, tests: list[dict[str, Any]]) -> str:
    """What promtool objects to."""
    file = folder / "tests.yml"
    file.write_text(
        json.dumps(
            {"rule_files": [str(monitoring.RULES)], "evaluation_interval": f"{STEP_SECONDS}s", "tests": tests}
        )
    )
    command = [monitoring.program("promtool"), "test", "rules", str(file)]
    tested = subprocess.run(command, capture_output=True, text=True, timeout=120)
    said = tested.stdout + tested.stderr
    assert (tested.returncode == 0) == ("SUCCESS" in said)
    return "" if tested.returncode == 0 else said


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.name)
def test_exactly_the_right_alerts_fire(trouble: Trouble, tmp_path: Path) -> None:
    assert run(tmp_path, [as_test(trouble)]) == ""


def test_every_alert_is_seen_to_fire() -> None:
    assert {name for trouble in TROUBLES for name in trouble.fires} == monitoring.alerts().keys()


def test_a_test_that_expects_the_wrong_thing_fails(tmp_path: Path) -> None:
    expected = as_test(TROUBLES[0])
    expected["input_series"] = as_test(next(t for t in TROUBLES if t.name == "the page is gone"))[
        "input_series"
    ]
    assert re.search(r"Florence2Sam2Down.*\n.*\n?.*exp:\[", run(tmp_path, [expected]))
