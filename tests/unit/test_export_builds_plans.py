"""`export --tensorrt`: what trtexec is asked for, what goes into the manifest, and what is said when it cannot be done.

No TensorRT runs here: in its place is a script that keeps its arguments and writes something where the plan belongs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from florence2_sam2.cli import main
from florence2_sam2.export import tensorrt
from florence2_sam2.export.errors import ExportError
from florence2_sam2.export.repository import remove_graph
from florence2_sam2.server.container.plans import check_plans
from florence2_sam2.server.launch.checks import check_repository
from florence2_sam2.server.launch.errors import StartError
from florence2_sam2.server.manifest import Plan, packaged_repository, read_florence2, read_sam2

TRTEXEC = """#!/bin/sh
echo "&&&& RUNNING TensorRT.trtexec [TensorRT v{version}] [b106] # $0 $*"
[ "$1" = --help ] && exit 0
printf '%s\\n' "$*" >> "{calls}"
{then}
for word; do case $word in --saveEngine=*) echo "plan of $*" > "${{word#--saveEngine=}}";; esac; done
"""
SMI = """#!/bin/sh
echo "$*" >> "{calls}"
echo "NVIDIA L4, 8.9"
echo "NVIDIA T4, 7.5"
"""
# As NVIDIA's own, where it finds no driver.
NO_GPU = "#!/bin/sh\necho 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'; exit 9\n"
LEAVES = list(tensorrt.HALVES)


class Machine:
    """A PATH on which only what a test puts there is found, beside the system's own programs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls, self.asked = folder, folder / "calls", folder / "asked"

    def trtexec(self, version: int = 110100, then: str = "") -> None:
        self._script("trtexec", TRTEXEC.format(version=version, calls=self.calls, then=then))

    def gpu(self, script: str | None = None) -> None:
        self._script("nvidia-smi", script or SMI.format(calls=self.asked))

    def built(self) -> list[dict[str, str]]:
        """The flags of each build."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [dict(word.partition("=")[::2] for word in line.split()) for line in lines]

    def _script(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setattr(tensorrt, "TRTEXEC_FOLDER", tmp_path / "nowhere")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    # The packaged graphs have fused attention, which TensorRT would not take; operators have tests of their own.
    monkeypatch.setattr(tensorrt, "require_operators", lambda model: None)
    if shutil.which("nvidia-smi"):
        pytest.skip("nvidia-smi lies where system programs lie")
    return Machine(folder)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    shutil.copytree(packaged_repository(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def everything(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


def add_plans(repository: Path) -> int:
    return main(["export", "--tensorrt", "--output", str(repository)])


def test_trtexec_is_asked_for_the_shapes_of_the_config(machine: Machine, exported: Path) -> None:
    machine.trtexec()
    machine.gpu()
    assert add_plans(exported) == 0
    built = machine.built()
    assert [Path(flags["--onnx"]).parts[-3:] for flags in built] == [
        (leaf, "1", "model.onnx") for leaf in LEAVES
    ]
    assert [Path(flags["--saveEngine"]).parts[-3:] for flags in built] == [
        (leaf, "1", "model.plan") for leaf in LEAVES
    ]
    vision, image, masks = built
    assert [vision[f"--{which}Shapes"] for which in ("min", "opt", "max")] == [
        f"pixels:{batch}x3x384x384" for batch in (1, 4, 8)
    ]
    assert image["--maxShapes"] == "pixels:8x3x640x640"
    maps = "image_embeddings:1x128x40x40,high_res_features_0:1x16x160x160,high_res_features_1:1x32x80x80"
    assert [masks[f"--{which}Shapes"] for which in ("min", "opt", "max")] == [
        f"{maps},boxes:{boxes}x4" for boxes in (1, 8, 64)
    ]
    for flags in built:
        assert flags["--memPoolSize"] == "workspace:4096"
        assert "--skipInference" in flags
        # TensorRT 11 refuses flags for a precision, and has only strongly typed networks.
        assert not {"--fp16", "--stronglyTyped"} & set(flags)


def test_tensorrt_10_is_asked_for_the_graphs_own_precision(machine: Machine, exported: Path) -> None:
    machine.trtexec(version=101500)
    machine.gpu()
    assert add_plans(exported) == 0
    assert all("--stronglyTyped" in flags for flags in machine.built())


def test_the_manifests_say_what_a_plan_runs_with(machine: Machine, exported: Path) -> None:
    machine.trtexec()
    machine.gpu()
    before = {name: read(exported) for name, read in (("florence2", read_florence2), ("sam2", read_sam2))}
    assert add_plans(exported) == 0
    plan = Plan("11.1.0", "NVIDIA L4", "8.9")
    florence2, sam2 = read_florence2(exported), read_sam2(exported)
    assert florence2.plans == {"florence2_vision_encoder/1/model.plan": plan}
    assert sam2.plans == dict.fromkeys((f"{leaf}/1/model.plan" for leaf in LEAVES[1:]), plan)
    for name, after in (("florence2", florence2), ("sam2", sam2)):
        assert set(after.files) == set(before[name].files) | set(after.plans)
    check_repository(exported)  # with their hashes
    check_plans(exported)


def test_a_second_time_replaces_the_plans_and_not_what_shares_their_contents(
    machine: Machine, exported: Path
) -> None:
    machine.trtexec()
    machine.gpu()
    assert add_plans(exported) == 0
    plan = exported / LEAVES[0] / "1" / "model.plan"
    other = exported.parent / "served.plan"
    os.link(plan, other)
    before = other.read_bytes()
    machine.trtexec(version=110200)
    assert add_plans(exported) == 0
    assert other.read_bytes() == before != plan.read_bytes()
    assert read_sam2(exported).plans[f"{LEAVES[1]}/1/model.plan"].tensorrt == "11.2.0"
    check_repository(exported)


def test_a_graph_that_is_written_anew_has_no_plan(tmp_path: Path) -> None:
    for name in ("model.onnx", "model.onnx.data", "model.plan", "model.py"):
        (tmp_path / name).touch()
    remove_graph(tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.py"]


def test_the_first_visible_gpu_is_asked_for(
    machine: Machine, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    machine.trtexec()
    machine.gpu()
    assert add_plans(exported) == 0
    assert machine.asked.read_text().split()[-1] == "--id=1"


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("florence2-sam2 export: ")
    return said


def test_without_trtexec(machine: Machine, exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine.gpu()
    before = everything(exported)
    assert add_plans(exported) == 1
    assert "needs trtexec, which is neither on PATH nor" in one_line(capsys)
    assert everything(exported) == before


def test_trtexec_is_found_where_nvidias_images_have_it(
    machine: Machine, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.trtexec()
    machine.gpu()
    place = machine.folder.parent / "nowhere"
    place.mkdir()
    (machine.folder / "trtexec").rename(place / "trtexec")
    assert add_plans(exported) == 0
    assert len(machine.built()) == len(LEAVES)


@pytest.mark.parametrize("script", [None, NO_GPU, "#!/bin/sh\n", "#!/bin/sh\necho 'No devices were found'\n"])
def test_without_a_gpu(
    machine: Machine, exported: Path, capsys: pytest.CaptureFixture[str], script: str | None
) -> None:
    machine.trtexec()
    if script is not None:
        machine.gpu(script)
    before = everything(exported)
    assert add_plans(exported) == 1
    assert "needs an NVIDIA GPU, and nvidia-smi shows none" in one_line(capsys)
    assert everything(exported) == before
    assert machine.built() == []


@pytest.mark.parametrize(("version", "shown"), [(101100, "10.11.0"), (8601, "8.6.1")])
def test_a_tensorrt_that_is_too_old(
    machine: Machine, exported: Path, capsys: pytest.CaptureFixture[str], version: int, shown: str
) -> None:
    machine.trtexec(version=version)
    machine.gpu()
    assert add_plans(exported) == 1
    assert f"needs TensorRT 10.12 or newer, this trtexec is of {shown}" in one_line(capsys)


@pytest.mark.parametrize(
    ("then", "message"),
    [
        ("echo '[07/01/2026-10:00:00] [E] [TRT] out of memory'; exit 1", "[TRT] out of memory"),
        ("exit 1", "trtexec cannot build a plan of florence2_vision_encoder"),
        ("exit 0", "trtexec has written no plan of florence2_vision_encoder"),
    ],
    ids=["a reason", "none", "no file"],
)
def test_a_build_that_fails_leaves_the_repository_as_it_was(
    machine: Machine, exported: Path, capsys: pytest.CaptureFixture[str], then: str, message: str
) -> None:
    machine.trtexec(then=then)
    machine.gpu()
    before = everything(exported)
    assert add_plans(exported) == 1
    assert message in one_line(capsys)
    assert everything(exported) == before
    assert [path.name for path in exported.parent.iterdir() if path.name.startswith(".")] == []


def test_what_is_no_repository(machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine.trtexec()
    machine.gpu()
    assert add_plans(tmp_path / "nothing") == 1
    assert "is no repository that `export` wrote: give --florence2, --sam2 or both" in one_line(capsys)
    assert not (tmp_path / "nothing").exists()


def test_operators_that_it_does_not_take_are_found_before(
    machine: Machine, exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx")
    monkeypatch.undo()
    monkeypatch.setenv("PATH", f"{machine.folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    machine.trtexec()
    machine.gpu()
    assert add_plans(exported) == 1
    said = one_line(capsys)
    assert "nodes of florence2_vision_encoder (MultiHeadAttention;" in said
    assert "export with --attention parts" in said
    assert machine.built() == []


def test_fused_attention_and_plans_exclude_each_other(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from florence2_sam2.export.run import export

    with pytest.raises(ExportError, match="--tensorrt needs --attention parts"):
        export(tmp_path / "new", "somewhere", attention="fused", plans=True)


def test_an_export_with_plans_looks_for_trtexec_before_it_loads_anything(
    machine: Machine, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    from florence2_sam2.export.run import export

    with pytest.raises(ExportError, match="needs trtexec"):
        export(tmp_path / "new", str(tmp_path / "no checkpoint"), plans=True)


def test_the_container_refuses_a_repository_without_plans(exported: Path) -> None:
    with pytest.raises(
        StartError, match=r"serves plans, and .*sam2_mask_decoder has none: .* export --tensorrt"
    ):
        check_plans(exported)
