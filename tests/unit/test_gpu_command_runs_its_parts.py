"""`scripts/gpu`: without a GPU it says so at once, and its parts work, here with the CPU in place of one."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.gpu import __main__ as command
from bench.gpu import machine
from bench.gpu.job import ExportFailed, Job, export
from bench.gpu.parts import device
from bench.gpu.parts.device import _is_large
from bench.gpu.parts.parity import _leading
from bench.speed.results import Result, Row
from florence2_sam2.server.manifest import packaged_repository
from florence2_sam2.server.onnx_session import CPU

ROOT = Path(__file__).resolve().parents[2]
SMI = """#!/bin/sh
case $1 in
  *memory.used) echo 1234; echo 0;;
  *) echo "NVIDIA L4, 8.9, 23034, 580.95.05, 72.00, 2040, Enabled, [N/A]";;
esac
"""


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text(SMI)
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def arguments(folder: Path, *more: str) -> list[str]:
    return ["--output", str(folder / "out"), "--results", str(folder / "RESULTS.md"), *more]


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_nothing_is_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(arguments(tmp_path)) == 2
    said = capsys.readouterr().err
    assert (
        said
        == "scripts/gpu: nvidia-smi shows no GPU here; what needs none is checked by scripts/gpu --check\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there may be a GPU here")
def test_the_script_says_so_before_it_installs_anything(tmp_path: Path) -> None:
    done = subprocess.run([ROOT / "scripts" / "gpu"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "nvidia-smi shows no GPU here" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("gpu")
def test_the_gpu_is_described() -> None:
    (found,) = machine.gpus()
    assert found["name"] == "NVIDIA L4"
    assert found["compute_cap"] == "8.9"
    assert list(found) == list(machine.FIELDS)
    assert machine.used_mib() == 1234.0


@pytest.mark.usefixtures("no_gpu")
def test_no_driver_is_no_gpu() -> None:
    assert machine.gpus() == []
    assert machine.used_mib() is None


def test_every_part_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(command.PARTS)
    assert all(len(line.split()) > 4 for line in lines)


@pytest.mark.usefixtures("gpu")
def test_a_whole_run_replaces_its_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = SimpleNamespace(
        run=lambda job: Result([Row("a figure", 2.0, "ms", 3.0, True)]), __doc__="A part."
    )
    monkeypatch.setattr(command, "_part", lambda name: parts)
    results = tmp_path / "RESULTS.md"
    results.write_text("# Results\n")
    assert command.main(arguments(tmp_path, "--only", "device", "parity")) == 0
    assert results.read_text() == "# Results\n", "a part of the parts is no section"
    assert command.main(arguments(tmp_path, "--quick")) == 0
    assert results.read_text() == "# Results\n"
    for _ in range(2):
        assert command.main(arguments(tmp_path)) == 0
    text = results.read_text()
    assert text.count("## GPU: Small checkpoints") == 1
    assert text.count("<!-- gpu small: begin, written by scripts/gpu -->") == 1
    assert "| a figure | ≤ 3.0 ms | 2.0 ms" in text


def test_the_parts_work_on_another_provider(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--provider", CPU, "--repository", str(packaged_repository()), "--quick"]
    parts = ["device", "parity", "decoder"]
    assert command.main(arguments(tmp_path, *given, "--only", *parts)) == 0, capsys.readouterr().err
    assert not (tmp_path / "RESULTS.md").exists()
    kept = {part: json.loads((tmp_path / "out" / "small" / f"{part}.json").read_text()) for part in parts}
    rows = {row["what"]: row["value"] for part in kept.values() for row in part["result"]["rows"]}
    # The same provider on both sides: the same bits, and every node on it.
    assert rows["fp32: largest error of an output"] == 0
    assert rows["fp32, 1 beam: tokens up to the first other one, of the CPU's"] == 1
    assert rows["fp32, 3 beams: tokens up to the first other one, of the CPU's"] == 1
    assert rows[f"fp32: products, convolutions, norms not on {CPU}"] == 0
    placed = kept["device"]["result"]["raw"]["placed"]["fp32"]
    assert len(placed) == 7
    assert all(providers.keys() == {CPU} and sum(providers[CPU].values()) > 20 for _, providers in placed)
    assert 0 < rows["fp32: a decoder step, one sequence"] < 1000


@pytest.mark.long
def test_the_longer_parts_work_on_another_provider(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--provider", CPU, "--repository", str(packaged_repository()), "--quick"]
    parts = ["encoders", "serving"]
    assert command.main(arguments(tmp_path, *given, "--only", *parts)) == 0, capsys.readouterr().err
    kept = [json.loads((tmp_path / "out" / "small" / f"{part}.json").read_text()) for part in parts]
    rows = {row["what"]: row["value"] for part in kept for row in part["result"]["rows"]}
    assert rows["fp32: answers with the CPU's caption, labels and nearly its boxes"] == 1
    assert 0 < rows["fp32: vision encoder, one picture"] < 10_000


def test_a_graph_that_tensorrt_would_refuse_is_a_missed_bound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx")
    given = ["--check", "--repository", str(packaged_repository())]  # whose encoders have fused attention
    assert command.main(arguments(tmp_path, *given)) == 1
    shown = capsys.readouterr().out
    assert "fp32: nodes of sam2_image_encoder that TensorRT refuses" in shown
    assert "**missed**" in shown


def test_plans_are_left_out_where_they_cannot_be_built(tmp_path: Path, no_gpu: None) -> None:
    from bench.gpu.parts import plans

    result = plans.run(Job("florence2", "sam2", tmp_path, CPU, given=packaged_repository()))
    assert result.rows == []
    assert "None were built. --tensorrt needs trtexec" in result.tables[0].note


def test_an_export_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(ExportFailed, match=r"is no repository that `export` wrote|needs trtexec"):
        export("--tensorrt", "--output", str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("operator", "large"),
    [
        ("FusedMatMul", True),
        ("MatMulNBits", True),
        ("SkipLayerNormalization", True),
        ("Shape", False),
        ("Cast", False),
    ],
)
def test_what_computes_is_told_from_what_does_not(operator: str, large: bool) -> None:
    assert _is_large(operator) is large


def test_a_product_on_the_host_is_a_missed_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    placed = [("decoder", {"CUDA": {"MatMul": 5}, CPU: {"Shape": 3, "FusedMatMul": 2}})]
    side = SimpleNamespace(call=lambda method, *_: placed if method == "placed" else None)
    monkeypatch.setattr(Job, "side", lambda self, *_: contextlib.nullcontext(side))
    job = Job("florence2", "sam2", tmp_path, "CUDA", given=packaged_repository())
    result = device.run(job)
    assert [(row.value, row.met) for row in result.rows] == [(2, False)]
    assert result.tables[-1].rows == [["fp32", "decoder", "5", "2 FusedMatMul, 3 Shape"]]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [([1, 2, 3], [1, 2, 3], 3), ([1, 2, 3], [1, 4, 3], 1), ([], [1], 0), ([1], [1, 2], 1)],
)
def test_tokens_are_compared_up_to_the_first_other_one(one: list[int], other: list[int], same: int) -> None:
    assert _leading(one, other) == same
