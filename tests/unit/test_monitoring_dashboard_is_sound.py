"""The dashboard: panels in their places, each says what it tells and what to do; queries that Prometheus can read."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import monitoring
import pytest
from test_monitoring_rules_are_sound import known

from florence2_sam2.server.metrics import DECLARED, PREFIX

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
PANELS = monitoring.panels()


def test_ids_and_titles_are_unique() -> None:
    ids = [panel["id"] for panel in monitoring.dashboard()["panels"]]
    assert len(set(ids)) == len(ids)
    titles = [panel["title"] for panel in monitoring.dashboard()["panels"]]
    assert len(set(titles)) == len(titles)


def test_no_panel_lies_over_another() -> None:
    places = []
    for panel in monitoring.dashboard()["panels"]:
        at = panel["gridPos"]
        assert at["w"] > 0
        assert at["h"] > 0
        assert 0 <= at["x"] <= at["x"] + at["w"] <= COLUMNS
        places.append((panel["title"], at["x"], at["y"], at["x"] + at["w"], at["y"] + at["h"]))
    for (one, left, top, right, bottom), (other, x1, y1, x2, y2) in itertools.combinations(places, 2):
        assert right <= x1 or x2 <= left or bottom <= y1 or y2 <= top, f"{one}, {other}"


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_tells(panel: dict[str, Any]) -> None:
    assert panel["datasource"] == DATASOURCE
    description = panel["description"]
    assert description.endswith(".")
    assert len(description) > 30
    references = [target["refId"] for target in panel["targets"]]
    assert references
    assert len(set(references)) == len(references)
    for target in panel["targets"]:
        assert target["datasource"] == DATASOURCE


def test_its_variables_choose_source_job_and_server() -> None:
    variables = {variable["name"]: variable for variable in monitoring.dashboard()["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance"]
    assert variables["datasource"]["type"] == "datasource"
    for name in ("job", "instance"):
        assert variables[name]["datasource"] == DATASOURCE
        metric = re.fullmatch(rf"label_values\((\w+)(\{{.*\}})?, {name}\)", variables[name]["query"]["query"])
        assert metric is not None
        assert metric[1] in known()
    for query in monitoring.queries():
        if monitoring.metrics(query.expression) == {"ALERTS"}:
            continue
        selectors = re.findall(r"\{[^}]*\}", query.expression)
        assert selectors
        for selector in selectors:
            assert 'job=~"$job"' in selector, query.title
            assert 'instance=~"$instance"' in selector, query.title


def test_every_number_of_ours_is_to_be_seen() -> None:
    asked = set().union(*(monitoring.metrics(query.expression) for query in monitoring.queries()))
    ours = {name for name in asked if name.startswith(PREFIX)}
    assert ours <= known()
    shown = {re.sub("_(bucket|sum|count)$", "", name.removeprefix(PREFIX)) for name in ours}
    assert shown == DECLARED.keys()


def test_promtool_reads_every_query(tmp_path: Path) -> None:
    rows = [
        {"record": f"query:{number}", "expr": query.filled("florence2-sam2", "localhost:8002")}
        for number, query in enumerate(monitoring.queries())
    ]
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rows}]}))
    checked = subprocess.run(
        [monitoring.program("promtool"), "check", "rules", str(file)], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(rows)} rules found" in checked.stdout
