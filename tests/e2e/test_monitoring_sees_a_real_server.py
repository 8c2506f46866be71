"""A real Prometheus with the shipped rules watches the real server: its numbers, rules, dashboard, alerts."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monitoring
import pytest
from calls import descendants, until
from drawn import SCENE

from florence2_sam2.client import InvalidRequest, Segmenter
from florence2_sam2.server.launch.checks import free_port
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.metrics import DECLARED, PREFIX

pytestmark = pytest.mark.server

PICTURE = monitoring.ROOT / "docs" / "pictures" / "demo.jpg"
CAPTION = "The image shows a red airplane. Only the test of monitoring asks so."
JOB, INSTANCE = "florence2-sam2", "localhost:8002"
SCRAPE_SECONDS, WINDOW = 0.25, "30s"
# Of what a server on a CPU and without an object store does not show.
NOT_SHOWN = r"nv_gpu_\w+|florence2_sam2_masks_stored_total"
# Queries that ask for trouble.
EMPTY = {"Failed requests", "Alerts", "Restarts"}
# May wait to fire: of a machine that does much else meanwhile, and of a small memory that other tests fill.
OF_OTHERS = {
    "Florence2Sam2MachineMemory",
    "Florence2Sam2SlowNow",
    "Florence2Sam2Slow",
    "Florence2Sam2MemoryTooSmall",
}


@dataclass(frozen=True)
class Prometheus:
    """A running one."""

    address: str

    def get(self, path: str, **fields: str) -> Any:
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(fields)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            read = json.load(answer)
        assert read["status"] == "success"
        assert "warnings" not in read
        return read["data"]

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """The samples now: `metric`, its labels, and `value`, time and number as text."""
        found: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return found

    def numbers(self, expression: str) -> list[float]:
        """The values now, of those that have one."""
        values = [float(sample["value"][1]) for sample in self.ask(expression)]
        return [value for value in values if math.isfinite(value)]

    def number(self, expression: str) -> float | None:
        found = self.ask(expression)
        return float(found[0]["value"][1]) if found else None

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=1):
                return True
        except OSError:
            return False


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """Prometheus with the shipped configuration, which asks `target` more often."""
    text = monitoring.SCRAPE.read_text("utf-8")
    changes = {
        "scrape_interval: 15s": f"scrape_interval: {1000 * SCRAPE_SECONDS:.0f}ms",
        "evaluation_interval: 15s": "evaluation_interval: 1s",
        "- rules.yml": f"- {monitoring.RULES}",
        # Its place in the network is the test's; its name is the example's.
        f"- targets: [{INSTANCE}]": f"- targets: [{target}]\n        labels: {{ instance: {INSTANCE} }}",
    }
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    (folder / "prometheus.yml").write_text(text)
    address = f"127.0.0.1:{free_port('127.0.0.1')}"
    command = [
        monitoring.program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env={**os.environ, "GOMAXPROCS": "1"}
        )
    try:
        running = Prometheus(address)
        until(lambda: process.poll() is not None or running.ready(), 30)
        if process.poll() is not None or not running.ready():
            pytest.fail(
                f"prometheus does not start: {(folder / 'log').read_text('utf-8', 'replace')}", pytrace=False
            )
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait()


def ask_for_everything(server: EmbeddedServer, round: int) -> None:
    """Calls that move each of the numbers, some of them by what the memory does not have yet."""
    with Segmenter(server.grpc_address, timeout=60) as segmenter:
        for priority in ("interactive", "bulk"):
            segmenter.segment(PICTURE, caption=f"{CAPTION} {round} {priority}", priority=priority)
        segmenter.segment(PICTURE, caption=f"{CAPTION} {round} bulk", area_threshold=0.0)  # it remembers that
        segmenter.segment(SCENE, boxes=[[20, 20, 80, 80 + round]], confidence_threshold=0)
        with pytest.raises(InvalidRequest):
            segmenter.segment(PICTURE, area_threshold=2.0)


@pytest.fixture(scope="module")
def watching(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus, which has seen the numbers rise. A rise needs a sample before it: so the calls come twice."""
    with prometheus(tmp_path_factory.mktemp("prometheus"), server.metrics_address) as running:
        counted = f'{PREFIX}segment_duration_seconds_count{{priority="bulk"}}'
        assert until(lambda: running.number(counted) is not None, 20)
        for number in (1, 2):
            before = running.number(counted) or 0.0
            ask_for_everything(server, number)
            assert until(lambda: (running.number(counted) or 0.0) > before, 20)  # noqa: B023 - called at once
        # Each model publishes its numbers by itself, once a second: not all of them rise in one sample.
        names = monitoring.records()
        until(lambda: all(running.numbers(name) for name in names), 20)
        yield running


@pytest.fixture(scope="module")
def page(server: EmbeddedServer, watching: Prometheus) -> str:
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_promtool_has_nothing_against_our_numbers(page: str) -> None:
    checked = subprocess.run(
        [monitoring.program("promtool"), "check", "metrics"], input=page, capture_output=True, text=True
    )
    # It has something against Triton's own names: the first word of a line is the metric.
    objections = [
        line for line in (checked.stdout + checked.stderr).splitlines() if not line.startswith("nv_")
    ]
    assert objections == []


def test_every_number_arrives_as_what_it_is(watching: Prometheus) -> None:
    kinds = watching.get("metadata")
    for name, declared in DECLARED.items():
        if re.fullmatch(NOT_SHOWN, PREFIX + name):
            continue
        assert kinds[PREFIX + name][0]["type"] == declared.kind
        assert kinds[PREFIX + name][0]["help"] == declared.description


@pytest.mark.parametrize("name", monitoring.records())
def test_every_record_has_a_value(watching: Prometheus, name: str) -> None:
    assert watching.numbers(name)


def test_the_rules_are_well_and_no_alert_is_up(watching: Prometheus) -> None:
    def rules() -> list[dict[str, Any]]:
        return [rule for group in watching.get("rules")["groups"] for rule in group["rules"]]

    def up() -> dict[str, str]:
        return {
            rule["name"]: rule["state"] for rule in rules() if rule.get("state", "inactive") != "inactive"
        }

    assert [rule["name"] for rule in rules() if rule["health"] != "ok"] == []
    assert {rule["name"] for rule in rules() if rule["type"] == "alerting"} == monitoring.alerts().keys()
    # A number that has been seen for less than its model takes to publish the next one looks as if it stood still.
    until(lambda: up().keys() <= OF_OTHERS, 10)
    assert up().keys() <= OF_OTHERS
    assert "firing" not in up().values()


@pytest.mark.parametrize("query", monitoring.queries(), ids=lambda query: f"{query.title} {query.legend}")
def test_the_dashboard_asks_for_what_there_is(
    watching: Prometheus, page: str, query: monitoring.Query
) -> None:
    shown = set(re.findall(r"^(\w+)", page, re.MULTILINE)) | monitoring.ITS_OWN
    asked = {name for name in monitoring.metrics(query.expression) if not re.fullmatch(NOT_SHOWN, name)}
    assert asked <= shown
    samples = watching.ask(query.filled(JOB, INSTANCE, WINDOW))
    if query.title in EMPTY or not asked:
        return
    assert [sample for sample in samples if math.isfinite(float(sample["value"][1]))]
    for sample in samples:
        assert query.labels() <= sample["metric"].keys()


def test_quantiles_come_from_a_real_histogram(watching: Prometheus) -> None:
    count = f"{PREFIX}segment_duration_seconds_count"
    (interactive,) = watching.ask(f'increase({count}{{priority="interactive"}}[{WINDOW}])')
    assert float(interactive["value"][1]) > 0
    half, most = (
        watching.number(
            f'histogram_quantile({q}, {PREFIX}segment_duration_seconds_bucket{{priority="interactive"}})'
        )
        for q in (0.5, 0.99)
    )
    assert half is not None
    assert most is not None
    assert 0 < half <= most <= DECLARED["segment_duration_seconds"].buckets[-1]


def test_a_process_that_stands_still_is_seen(server: EmbeddedServer, watching: Prometheus) -> None:
    """What Florence2Sam2ModelDead asks, over a shorter time."""
    expression = monitoring.alerts()["Florence2Sam2ModelDead"]["expr"]
    assert expression.count("[3m]") == 1
    short = expression.replace("[3m]", "[4s]")
    assert until(lambda: watching.ask(short) == [], 20)
    (pid,) = [
        pid
        for pid, line in descendants(os.getpid()).items()
        if "/florence2/1/model.py" in line and server.shm_prefix in line
    ]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert until(lambda: watching.ask(short) != [], 30)
        assert [sample["metric"]["model"] for sample in watching.ask(short)] == ["florence2"]
    finally:
        os.kill(pid, signal.SIGCONT)
    assert until(lambda: watching.ask(short) == [], 30)
