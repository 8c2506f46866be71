"""`scripts/load` and `scripts/soak` on real servers, as short as they get: what they say, not how fast it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.load import soak
from bench.load.__main__ import main
from bench.load.job import QUICK_SETTINGS
from bench.load.parts import overload

pytestmark = pytest.mark.server


def load(folder: Path, *arguments: str) -> dict[str, Any]:
    """Each part's result. What a bound says of times on a machine that is busy with tests means nothing."""
    assert main(["--quick", "--output", str(folder), *arguments]) in (0, 1), "a part has failed"
    files = (folder / "small").glob("*.json")
    return {
        file.stem: json.loads(file.read_text()).get("result") for file in files if "inputs" not in file.stem
    }


def values(result: dict[str, Any]) -> dict[str, float]:
    return {row["what"].strip(): row["value"] for row in result["rows"]}


def test_every_part_of_the_load_says_what_happened(tmp_path: Path) -> None:
    found = load(tmp_path, "--no-perf-analyzer")
    callers = found["concurrency"]["raw"]["points"]
    assert [point["callers"] for point in callers] == [1, 2, 4]
    assert values(found["concurrency"])["errors with 1 to 4 callers"] == 0
    assert all(point["throughput"] > 0 and 0 < point["p50"] <= point["p99"] for point in callers)

    half, four = found["rates"]["raw"]["points"]
    assert half["answered"] > half["refused"]
    assert four["offered"] > 4 * half["offered"]
    assert four["refused"] > 0
    assert values(found["rates"])["calls that got neither an answer nor UNAVAILABLE"] == 0

    room = QUICK_SETTINGS["max_in_flight"] + QUICK_SETTINGS["max_queue"]
    codes = found["overload"]["raw"]["codes"]
    assert sum(codes.values()) == overload.QUICK_AT_ONCE
    assert codes.keys() == {"OK", "UNAVAILABLE"}
    assert room <= codes["OK"] < overload.QUICK_AT_ONCE

    assert found["priorities"]["raw"]["bulk"]["OK"] > 0
    assert found["priorities"]["raw"]["flood"]["UNAVAILABLE"] > 0
    assert values(found["priorities"])["calls that failed"] == 0

    assert len(found["slow-urls"]["raw"]["slow"]) >= 20
    assert values(found["slow-urls"])["calls that failed otherwise than they must"] == 0


@pytest.mark.long
def test_perf_analyzer_is_installed_and_measures(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        "--only",
        "concurrency",
        "--perf-analyzer",
        str(tmp_path / "perf_analyzer" / "bin" / "perf_analyzer"),
    )
    assert found["concurrency"]["raw"]["tool"]
    assert found["concurrency"]["raw"]["errors"] == []
    models = {row[1] for row in found["concurrency"]["tables"][1]["rows"]}
    assert {"florence2", "florence2_vision_encoder", "sam2_image_encoder", "sam2_mask_decoder"} <= models


@pytest.mark.long
def test_a_soak_finds_nothing_wrong(tmp_path: Path) -> None:
    given = ["--quick", "--seconds", "8", "--callers", "4", "--output", str(tmp_path)]
    assert soak.main(given) in (0, 1), "the soak itself has failed"
    result = json.loads((tmp_path / "small" / "soak.json").read_text())["result"]
    assert result["raw"]["faults"] == []
    assert values(result)["processes of the server that ended"] == 0
    assert sum(result["raw"]["calls"].values()) > 10
    assert result["raw"]["deaths"] >= 1
    assert len(result["raw"]["looks"]) >= 4
    assert all(look["descriptors"] > 100 and look["rss"] > 100 for look in result["raw"]["looks"])
