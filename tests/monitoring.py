"""What `deploy/monitoring` ships, taken apart, and the programs of Debian's package `prometheus`."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "deploy" / "monitoring"
RULES, SCRAPE, DASHBOARD = FOLDER / "rules.yml", FOLDER / "prometheus.yml", FOLDER / "dashboard.json"

# Of Prometheus itself.
ITS_OWN = {"up", "ALERTS"}
_WORDS = {"and", "or", "unless", "bool", "offset"}
_LISTS = r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)"


def program(name: str) -> str:
    """`prometheus` or `promtool`: of this machine, or what `scripts/environment.sh` has unpacked. Skips without it."""
    folders = [os.environ.get("PATH", os.defpath), f"{sys.prefix}/prometheus/usr/bin"]
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found is not None:
        return found
    if os.environ.get("FLORENCE2_SAM2_NEEDS_PROMETHEUS"):
        pytest.fail(f"no {name} is installed")
    pytest.skip(f"no {name} is installed")


@dataclass(frozen=True)
class Query:
    """One of the dashboard's. `legend` has `{{label}}` where a label's value is to stand."""

    title: str
    expression: str
    legend: str

    def filled(self, job: str, instance: str, window: str = "1m") -> str:
        """With values for the dashboard's variables."""
        values = {"$job": job, "$instance": instance, "$__rate_interval": window}
        text = self.expression
        for variable, value in values.items():
            text = text.replace(variable, value)
        assert "$" not in text, f"{self.title}: {text}"
        return text

    def labels(self) -> set[str]:
        """Those that the legend names."""
        return set(re.findall(r"\{\{\s*(\w+)\s*\}\}", self.legend))


def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(DASHBOARD.read_text("utf-8"))
    return read


def panels() -> list[dict[str, Any]]:
    """All but the rows' titles."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> list[Query]:
    """Of the panels, then of the annotations."""
    found = [
        Query(panel["title"], target["expr"], target["legendFormat"])
        for panel in panels()
        for target in panel["targets"]
    ]
    marks = [mark for mark in dashboard()["annotations"]["list"] if "expr" in mark]
    return found + [Query(mark["name"], mark["expr"], mark["textFormat"]) for mark in marks]


def rules() -> list[dict[str, Any]]:
    """Records and alerts, in the order in which they are evaluated."""
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def records() -> dict[str, str]:
    """Name → expression."""
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def metrics(expression: str) -> set[str]:
    """The names of the series that an expression asks for."""
    bare = re.sub(r'"(\\.|[^"\\])*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", bare)
    bare = re.sub(_LISTS, " ", bare)
    names = re.findall(r"(?<![\w.$])([a-zA-Z_:][\w:]*)(?!\s*\(|[\w:])", bare)
    return set(names) - _WORDS
