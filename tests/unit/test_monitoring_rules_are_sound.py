"""Prometheus reads the shipped rules and the example; each alert says what to do; names are those of the metrics."""

from __future__ import annotations

import re
import subprocess

import monitoring
import pages
import pytest
import yaml

from florence2_sam2.server.metrics import DECLARED, PREFIX

TROUBLESHOOTING = pages.DOCS / "troubleshooting.md"
SEVERITIES = {"critical", "warning", "info"}


def known() -> set[str]:
    """Series of our own on the page."""
    names: set[str] = set()
    for name, declared in DECLARED.items():
        parts = ("_bucket", "_sum", "_count") if declared.kind == "histogram" else ("",)
        names |= {PREFIX + name + part for part in parts}
    return names


def test_names_are_found_in_expressions() -> None:
    text = 'sum by (a) (rate(x_total{c=~"d|e", f="}g"}[5m])) / on (a) group_left () (job:y:ratio > 0.5e-1) and z[1h:]'
    assert monitoring.metrics(text) == {"x_total", "job:y:ratio", "z"}
    assert monitoring.metrics('histogram_quantile(0.9, h_bucket) unless on(i) absent(up{j="k(l)"})') == {
        "h_bucket",
        "up",
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "--lint=all", "--lint-fatal", str(monitoring.RULES)),
        ("check", "config", str(monitoring.SCRAPE)),
    ],
)
def test_promtool_has_no_objection(arguments: tuple[str, ...]) -> None:
    checked = subprocess.run([monitoring.program("promtool"), *arguments], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_example_asks_the_servers_page_for_these_rules() -> None:
    example = yaml.safe_load(monitoring.SCRAPE.read_text("utf-8"))
    assert example["rule_files"] == [monitoring.RULES.name]
    job = example["scrape_configs"][0]
    assert job["static_configs"] == [{"targets": ["localhost:8002"]}]
    # The alerts take a job by its name.
    for expression in (monitoring.alerts()[f"Florence2Sam2{name}"]["expr"] for name in ("Down", "Absent")):
        (matched,) = re.findall(r'job=~"([^"]*)"', expression)
        assert re.fullmatch(matched, job["job_name"])


@pytest.mark.parametrize("rule", monitoring.rules(), ids=lambda rule: rule.get("record") or rule["alert"])
def test_a_rule_asks_for_what_there_is(rule: dict[str, str]) -> None:
    asked = monitoring.metrics(rule["expr"])
    ours = {name for name in asked if name.startswith(PREFIX)}
    assert ours <= known()
    recorded = {name for name in asked if ":" in name}
    before = list(monitoring.records())
    if "record" in rule:
        before = before[: before.index(rule["record"])]
    assert recorded <= set(before)
    rest = asked - ours - recorded - monitoring.ITS_OWN
    assert all(name.startswith("nv_") for name in rest), rest


@pytest.mark.parametrize("name", monitoring.records())
def test_a_records_name_says_over_what_of_which_and_how(name: str) -> None:
    level, metric, how = name.split(":")
    assert set(level.split("_")) <= {"job", "instance", "model", "code", "priority", "stage"}
    assert metric.startswith(PREFIX)
    assert re.fullmatch(r"(ratio_|p\d\d_)?rate(5m|30m|1h|6h)|mean5m", how)


@pytest.mark.parametrize("name", monitoring.alerts())
def test_an_alert_says_what_it_is_and_where_help_is(name: str) -> None:
    alert = monitoring.alerts()[name]
    assert name.startswith("Florence2Sam2")
    assert alert["labels"]["severity"] in SEVERITIES
    assert alert["annotations"].keys() == {"summary", "description", "runbook"}
    assert all(alert["annotations"].values())
    path, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert monitoring.ROOT / path == TROUBLESHOOTING
    assert anchor in pages.anchors(TROUBLESHOOTING)
    text = TROUBLESHOOTING.read_text("utf-8")
    section = re.split(r"^## ", text[text.index("## Alerts") + 3 :], maxsplit=1, flags=re.MULTILINE)[0]
    assert f"`{name}`" in section
    listed = re.escape(f"| `{name}` | {alert['labels']['severity']} | ")
    assert re.search(rf"^{listed}", (pages.DOCS / "monitoring.md").read_text("utf-8"), re.MULTILINE)


def test_slow_is_a_bound_of_the_histogram() -> None:
    bounds = {f"{bound:g}" for bound in DECLARED["segment_duration_seconds"].buckets}
    asked = [
        found
        for expression in monitoring.records().values()
        for found in re.findall(r'le=~"([^"]*)"', expression)
    ]
    assert len(asked) == 4
    for matched in asked:
        whole, point_zero = matched.split("|")  # as Prometheus 2 and 3 write it
        assert whole in bounds
        assert point_zero == f"{whole}.0"
    stated = re.search(r"slow after (\d+) seconds", monitoring.RULES.read_text("utf-8"))
    assert stated is not None
    assert {matched.split("|")[0] for matched in asked} == {stated[1]}


def test_the_bounds_to_choose_from_are_named() -> None:
    said = " ".join(monitoring.RULES.read_text("utf-8").split())
    assert " ".join(f"{bound:g}" for bound in DECLARED["segment_duration_seconds"].buckets) in said
