"""Three real servers behind nginx, and behind the client's own round robin: one is lost under load, and comes back."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import proxy
import pytest

from bench.balance.__main__ import PARTS, main
from bench.balance.load import Load
from bench.balance.nginx import Nginx
from bench.balance.servers import Fleet, answered_since, places, start, until
from bench.speed.pictures import picture
from florence2_sam2.client import Segmenter

pytestmark = [pytest.mark.server, pytest.mark.timeout(240)]

CALLERS, PERIOD = 2, 2.0  # each way
LEAST_SHARE = 0.5  # of an equal part


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("fleet")) as started:
        start([started.add(f"server{number}") for number in range(3)])
        yield started


def test_one_of_three_is_lost_and_comes_back(fleet: Fleet, tmp_path: Path) -> None:
    pictures = [picture(97_000 + number, 320, 320) for number in range(6)]
    addresses = [server.grpc for server in fleet.servers]
    victim = fleet.servers[1]
    with (
        Nginx(proxy.find_nginx(), tmp_path / "nginx", places(fleet.servers)) as nginx,
        Load(nginx.segmenter, pictures, CALLERS, PERIOD) as proxied,
        Load(lambda: Segmenter(addresses), pictures, CALLERS, PERIOD) as direct,
    ):

        def answered() -> list[int]:
            return [len(load.calls) for load in (proxied, direct)]

        def go_on(more: int, seconds: float = 60) -> bool:
            """Whether each load has had so many more calls in time."""
            wanted = [count + more for count in answered()]
            return until(lambda: all(map(int.__ge__, answered(), wanted)), seconds)

        assert go_on(4)
        assert until(lambda: victim.in_flight() > 0, 60)  # so that calls are lost with it
        victim.kill()
        assert go_on(4)
        start([victim])
        before = fleet.counts()

        def has_its_share() -> bool:
            since = answered_since(before, fleet.counts())
            return since[victim.name] * 3 >= LEAST_SHARE * sum(since.values()) and sum(since.values()) >= 9

        assert until(has_its_share, max(20, 3 * victim.start_seconds)), fleet.counts()
    lost = {
        way: [call.fault for call in load.calls if call.fault]
        for way, load in (("nginx", proxied), ("round robin", direct))
    }
    assert lost == {"nginx": [], "round robin": []}
    assert nginx.logs.count("upstream") > 0  # it has met the dead server, and went on


def test_one_that_ends_costs_no_call_over_http(fleet: Fleet, tmp_path: Path) -> None:
    """Callers that do not try again: nginx does."""
    pictures = [base64.b64encode(picture(97_100 + number, 320, 320)).decode() for number in range(6)]
    ending = fleet.servers[2]
    over = threading.Event()
    statuses: list[tuple[int, bytes]] = []
    with Nginx(proxy.find_nginx(), tmp_path / "nginx", places(fleet.servers)) as nginx:

        def call(caller: int) -> None:
            asked, count = proxy.Proxy(nginx.folder, nginx.port), 0
            while not over.is_set():
                answer = asked.segment(image_base64=pictures[(caller + count) % len(pictures)])
                statuses.append((answer.status, answer.body if answer.status != 200 else b""))
                count += 1

        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(call, caller) for caller in range(4)]
            try:
                assert until(lambda: len(statuses) > 4 and ending.in_flight() > 0, 60)
                ending.stop()
                count = len(statuses)
                assert until(lambda: len(statuses) > count + 4, 60)
            finally:
                over.set()
            for one in calls:
                one.result()
        asked_it = [line for line in nginx.logs.splitlines() if f'"server": "{ending.http}, ' in line]
    assert {status for status in statuses if status[0] != 200} == set()
    assert asked_it  # some were refused there, and answered by another one


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_the_script_loses_none_in_any_part(tmp_path: Path) -> None:
    proxy.find_nginx()
    code = main(["--quick", "--output", str(tmp_path)])
    found = {name: json.loads((tmp_path / "small" / f"{name}.json").read_text()) for name in PARTS}
    assert [body["error"] for body in found.values()] == [""] * len(PARTS)
    for body in found.values():
        assert body["result"]["raw"]["lost"] == []
        assert len(body["result"]["raw"]["calls"]) > 30
    assert code == 0
