"""`scripts/sizing scale` on real servers, as short as it gets: what it says, not how fast it is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bench.sizing import scale
from bench.sizing.__main__ import main
from bench.speed import prepare

pytestmark = pytest.mark.server


@pytest.mark.long  # three servers are started and stopped
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a second server needs a second core")
def test_two_servers_are_asked_beside_each_other(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    assert main(["scale", "--quick", "--output", str(tmp_path)]) == 0, "it has failed, or a call has"
    assert os.sched_getaffinity(0) == before
    ran = json.loads((tmp_path / "scale.json").read_text())
    ways = ran["result"]["raw"]
    assert list(ways) == ["one server, one core", "two servers, a core each", "one server, two cores"]
    for rounds in ways.values():
        assert [one["failed"] for one in rounds] == [[]]
        assert all(
            one["throughput"] > 0 and 0 < one["p50"] <= one["p95"] and one["asking"] > 0 for one in rounds
        )
    values = {row["what"].strip(): row["value"] for row in ran["result"]["rows"]}
    assert values["calls that failed while servers were added"] == 0
    assert 1 < values["predicted: twice as much, less what asking takes"] <= 2


def test_one_core_is_too_few() -> None:
    with (
        scale.on_cores(sorted(os.sched_getaffinity(0))[:1]),
        pytest.raises(scale.TooFewCores, match="two cores"),
    ):
        scale.run(prepare.small())
