"""`scripts/bench` on a real server of its own, as short as it gets: what it says, not how fast it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.speed.__main__ import main

pytestmark = pytest.mark.server


def results_of(folder: Path, *pieces: str, options: tuple[str, ...] = ()) -> dict[str, dict]:
    """The pieces' results. What a target says of times on a machine that is busy with tests means nothing."""
    arguments = ["--quick", "--output", str(folder), "--no-results", "--only", *pieces, *options]
    assert main(arguments) in (0, 1), "a piece has failed"
    return {piece: json.loads((folder / "small" / f"{piece}.json").read_text())["result"] for piece in pieces}


def test_the_same_picture_again_costs_less(tmp_path: Path) -> None:
    rows = results_of(tmp_path, "again")["again"]["rows"]
    assert [row["what"].split(", ")[1] for row in rows] == ["other thresholds", "another caption"]
    assert 0 < rows[0]["value"] < rows[1]["value"] < 1


def test_forced_texts_and_fixed_boxes_are_the_same_served_and_in_one_process(tmp_path: Path) -> None:
    """What --full measures, on small checkpoints: the piece fails where the two answers differ."""
    found = results_of(tmp_path, "overhead", "memory", options=("--forced", "8"))
    assert found["overhead"]["rows"][0]["value"] > 0.5
    assert len(found["overhead"]["raw"]["served"]) == len(found["overhead"]["raw"]["direct"]) == 2
    assert found["memory"]["raw"]["peak"]["total"] >= found["memory"]["raw"]["loaded"]["total"] * 0.9
    assert found["memory"]["raw"]["peak"]["pss"] > 100
