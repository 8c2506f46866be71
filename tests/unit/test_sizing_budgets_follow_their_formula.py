"""Time and memory that are estimated for a GPU: the formula by hand, counted work, and the documentation's table."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pages
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.sizing import report, sanity
from bench.sizing.budget import Assumed, Machine, budget, graph_seconds, memory, works
from bench.sizing.gpus import GPUS
from bench.speed.report import markers
from bench.speed.results import Ran, Result
from florence2_sam2.server.manifest import packaged_repository

ROUND = Assumed(arithmetic=0.5, memory=0.5, bus=0.5, launch=1e-5, step=1e-3, host=0.01, contexts=1e9)
MACHINE = Machine(flops=1e12, bandwidth=1e11, bus=1e10, memory=10e9)


def component(name: str, runs: int = 1, **more: Any) -> dict[str, Any]:
    """20 ms of products, 2 ms of a norm and 0.1 ms of launches on MACHINE with ROUND."""
    kinds = {"MatMul": [6, 1e10, 1e8], "LayerNormalization": [4, 0.0, 1e8]}
    return {"name": name, "runs": runs, "weights": 8e7, "alive": 1e8, "inputs": 5e7, "kinds": kinds, **more}


def test_a_graph_takes_what_its_nodes_take_by_hand() -> None:
    assert graph_seconds(component("vision encoder"), MACHINE, ROUND) == pytest.approx(0.02 + 0.002 + 1e-4)
    # Bytes of half the size, ten times the operations: now the products are bound by memory, 1 ms of it.
    half = replace(MACHINE, flops=1e14, scale=0.5)
    assert graph_seconds(component("vision encoder"), half, ROUND) == pytest.approx(0.001 + 0.001 + 1e-4)


def test_several_sequences_read_the_weights_once() -> None:
    fast = replace(MACHINE, flops=1e15)
    one = graph_seconds(component("decoder, caption"), fast, ROUND)
    four = graph_seconds(component("decoder, caption"), fast, ROUND, sequences=4)
    # 80 of the products' 100 MB are weights; the norm's 100 MB are each sequence's own.
    assert one == pytest.approx(0.002 + 0.002 + 1e-4)
    assert four == pytest.approx((8e7 + 4 * 2e7 + 4 * 1e8) / 5e10 + 1e-4)
    assert one < four < 4 * one


def request() -> dict[str, Any]:
    return {
        "tokens": 10,
        "boxes": 8,
        "position_bytes": 1e4,
        "positions": {"caption": 500, "grounding": 590},
        "vocabulary": 1000,
        "components": [
            component("vision encoder"),
            component("decoder, caption", 10),
            component("decoder, grounding", 10),
        ],
    }


def test_a_request_is_the_sum_of_its_graphs_by_hand() -> None:
    found = budget(request(), MACHINE, ROUND, rows=4)
    graph, together = 0.0221, graph_seconds(component("decoder, caption"), MACHINE, ROUND, 4)
    assert found.seconds == pytest.approx(21 * graph + 20 * 1e-3 + 5e7 / 5e9 + 0.01)
    assert found.seconds_as_is - found.seconds == pytest.approx(20 * 5e7 / 5e9)
    assert 1 / found.rate == pytest.approx(graph + 20 * (together + 1e-3) / 4 + 5e7 / 5e9)
    assert 1 / found.rate_as_is - 1 / found.rate == pytest.approx(20 * 5e7 / 5e9)
    # Eight pictures in the encoder, one graph for both texts, caches of 600 positions.
    held = 1e9 + (8e7 + 8e8) + (8e7 + 1e8)
    sequence = 600 * 1e4 + 4 * 1000
    assert memory(request(), MACHINE, ROUND) == pytest.approx(held)
    assert found.memory == pytest.approx(held + 4 * sequence)
    assert found.sequences == math.floor((10e9 - held) / sequence)
    assert budget(request(), replace(MACHINE, memory=1e9), ROUND).sequences == 0


@given(st.sampled_from(GPUS), st.sampled_from(["fp16", "fp32"]), st.integers(1, 64), st.floats(1.1, 4))
def test_better_hardware_is_never_slower(gpu: Any, precision: str, rows: int, factor: float) -> None:
    machine = Machine.of(gpu, precision)
    for work in works().values():
        base = budget(work, machine, rows=rows)
        assert base.seconds < base.seconds_as_is
        assert base.rate > base.rate_as_is > 0
        for name in ("flops", "bandwidth", "bus"):
            better = budget(work, replace(machine, **{name: factor * getattr(machine, name)}), rows=rows)
            assert better.seconds <= base.seconds
            assert better.rate >= base.rate
        assert budget(work, machine, rows=2 * rows).rate >= base.rate


def test_the_counted_work_is_that_of_the_roofline() -> None:
    """Operations of Florence-2-base and SAM2.1-tiny as scripts/bench counted them in another way (bench/RESULTS.md)."""
    work = works()["Florence-2-base + SAM2.1-hiera-tiny"]
    assert (work["tokens"], work["boxes"]) == (100, 8)
    giga = {
        part["name"]: sum(flops for _, flops, _ in part["kinds"].values()) / 1e9
        for part in work["components"]
    }
    assert giga.pop("mask decoder, 8 boxes") == pytest.approx(19.14, rel=0.02)
    expected = {
        "vision encoder": 380.68,
        "text encoder, caption": 64.88,
        "decoder, caption": 0.190,
        "text encoder, grounding": 76.40,
        "decoder, grounding": 0.191,
        "SAM2 image encoder": 292.48,
    }
    assert giga == pytest.approx(expected, rel=0.01)
    assert work["position_bytes"] == 2 * 6 * 12 * 64 * 4


def test_a_larger_model_is_more_of_everything() -> None:
    small, large = works().values()
    machine = Machine.of(GPUS[0], "fp16")
    one, other = budget(small, machine), budget(large, machine)
    assert other.seconds > 1.5 * one.seconds
    assert other.memory > 1.5 * one.memory
    assert other.sequences < one.sequences


def test_data_sheets_are_within_reason() -> None:
    for gpu in GPUS:
        assert gpu.half / gpu.single == pytest.approx(8 if gpu.name == "T4" else 2, rel=0.05)
        assert gpu.bus < gpu.bandwidth
        assert "NVIDIA" in gpu.source
    assert len({gpu.name for gpu in GPUS}) == len(GPUS)


def test_the_documentations_table_is_what_the_formula_gives() -> None:
    text = (pages.DOCS / "deployment.md").read_text(encoding="utf-8")
    begin, end = markers("gpus", report.KIND)
    assert text[text.index(begin) + len(begin) : text.index(end)].strip() == report.gpus_block()
    above = text[: text.index(begin)]
    assert "Never measured" in above[above.rindex("### ") :]
    said = " ".join(above.split())
    for value in (
        "0.4 · peak",
        "0.6 · bandwidth",
        "6 µs",
        "0.3 ms",
        "0.4 · PCI Express",
        "50 ms",
        "2 GB for CUDA",
    ):
        assert value in said, "an assumption of the page is none of the formula's"
    assert Assumed() == Assumed(0.4, 0.6, 0.4, 6e-6, 3e-4, 0.05, 2e9)


def test_an_exports_graphs_are_counted() -> None:
    """The demo models, beside what scripts/bench says of them (bench/RESULTS.md): other lengths, the same pictures."""
    pytest.importorskip("onnx")
    from bench.sizing.graphs import repository_work

    work = repository_work(packaged_repository(), packaged_repository())
    giga = {
        part["name"]: sum(flops for _, flops, _ in part["kinds"].values()) / 1e9
        for part in work["components"]
    }
    assert giga["vision encoder"] == pytest.approx(4.73, rel=0.02)
    assert giga["SAM2 image encoder"] == pytest.approx(5.83, rel=0.02)
    assert giga["text encoder, grounding"] > giga["text encoder, caption"] > giga["decoder, caption"] > 0
    assert giga["mask decoder, 8 boxes"] > 0.24
    assert all(
        part["weights"] > 0 and part["alive"] > 0 and part["inputs"] > 0 for part in work["components"]
    )
    assert budget(work, Machine.of(GPUS[0], "fp32")).memory < 4e9


def roofline(folder: Path, factor: float) -> Path:
    """As scripts/bench --full keeps it: every graph takes `factor` times what it must."""
    machine = Machine(2e11, 5e10)
    parts = [
        {
            "name": part["name"],
            "seconds": {"median": factor * part["runs"] * graph_seconds(part, machine, sanity.IDEAL)},
        }
        for part in works()[sanity.SERVED]["components"]
    ]
    rounds = [{"flops": machine.flops, "bandwidth": machine.bandwidth}] * 3
    Ran("roofline", {}, {}, "", 1.0, Result(raw={"rounds": rounds, "components": parts})).write(folder)
    return folder


def test_on_a_known_machine_the_formula_gives_the_share_that_is_reached(tmp_path: Path) -> None:
    result, source = sanity.run(roofline(tmp_path, 2.0))
    assert source.piece == "roofline"
    assert result.rows[0].value == pytest.approx(0.5)
    assert {line[3] for line in result.tables[0].rows} == {"0.50"}
    # Shares of 0.4 and 0.6 take between 1.7 and 2.5 times the least, and launches a little more.
    assert 1.6 / 2 < result.rows[1].value < 2.6 / 2
    steps = {"1": [0.010, 0.012, 0.011], "16": [0.044] * 3}
    Ran("decoding", {}, {}, "", 1.0, Result(raw={"steps": steps})).write(tmp_path)
    rows = sanity.run(tmp_path)[0].rows
    assert rows[1].value == pytest.approx(0.044 / 16 / 0.011)
    assert 1 / 16 < rows[0].value < 0.5


def test_without_a_full_size_roofline_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(sanity.NoRoofline, match="run scripts/bench --full first"):
        sanity.run(tmp_path)
    raw = {
        "rounds": [{"flops": 1.0, "bandwidth": 1.0}],
        "components": [{"name": "x", "seconds": {"median": 1.0}}],
    }
    Ran("roofline", {}, {}, "", 1.0, Result(raw=raw)).write(tmp_path)
    with pytest.raises(sanity.NoRoofline, match="is not of Florence-2-base"):
        sanity.run(tmp_path)


def test_nodes_are_counted_as_by_hand(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from bench.sizing.graphs import count

    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "product"),  # [4, 16]
        helper.make_node("Softmax", ["a"], ["b"], "softmax"),
        helper.make_node("Reshape", ["b", "shape"], ["c"], "view"),  # [8, 8], b under another name
        helper.make_node("Softmax", ["c"], ["d"], "again"),
        helper.make_node("Gather", ["d", "row"], ["y"], "row of it"),  # [8]
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4, 32])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [8])],
        [
            numpy_helper.from_array(np.ones((32, 16), np.float32), "w"),
            numpy_helper.from_array(np.array([8, 8], np.int64), "shape"),
            numpy_helper.from_array(np.array(3, np.int64), "row"),
        ],
    )
    path = tmp_path / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    found = count(path, {"x": np.ones((4, 32), np.float32)})
    assert found.kinds == {
        "MatMul": (1, 2.0 * 4 * 16 * 32, 4.0 * (4 * 32 + 32 * 16 + 4 * 16)),
        "Softmax": (2, 0.0, 2 * 2 * 4.0 * 64),
        "Gather": (1, 0.0, 2 * 4.0 * 8),
    }
    assert found.weights >= 4 * 32 * 16
    # The product's result and the softmax's, or both softmaxes'.
    assert found.alive == 2 * 4 * 64
