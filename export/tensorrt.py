"""TensorRT's plans of the leaf models, built by NVIDIA's `trtexec` on the GPU that is here.

A plan runs with the release of TensorRT that built it, on GPUs of the same compute capability, so both go into the
manifest. Precision is the graph's own: TensorRT 11 knows nothing else, and `--stronglyTyped` asks TensorRT 10 for it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from florence2_sam2.export import configs, repository
from florence2_sam2.export.errors import ExportError
from florence2_sam2.server import manifest
from florence2_sam2.server.manifest import PLAN, Exported, Florence2, Plan, Sam2, version_folder

# Of the leaf models, the half of the repository that each belongs to.
HALVES: dict[str, type[Exported]] = {
    "florence2_vision_encoder": Florence2,
    "sam2_image_encoder": Sam2,
    "sam2_mask_decoder": Sam2,
}
_FOLDERS = {Florence2: "florence2", Sam2: "sam2"}
# Where NVIDIA's packages and images put what is not on PATH.
TRTEXEC_FOLDER = Path("/usr/src/tensorrt/bin")
# Its networks can be strongly typed throughout (NVIDIA's guide to migrate to strong typing).
OLDEST = (10, 12)
# For what a layer needs while it runs; the same as in the configs, in MiB.
WORKSPACE_MIB = 4096
_BANNER = re.compile(r"\[TensorRT v(\d+)\]")  # major · 10000 + minor · 100 + patch
_ASK_SECONDS = 60

Report = Callable[[str], None]


@dataclass(frozen=True)
class Builder:
    """What builds: the program, its TensorRT ("10.15.0"), and the GPU with its compute capability ("8.9")."""

    program: str
    tensorrt: str
    gpu: str
    compute_capability: str

    @property
    def plan(self) -> Plan:
        return Plan(self.tensorrt, self.gpu, self.compute_capability)


def find_builder() -> Builder:
    """What is here to build plans with; asked before any work.

    Raises:
        ExportError: there is no trtexec, none that is new enough, or no GPU.
    """
    program = shutil.which("trtexec") or shutil.which("trtexec", path=str(TRTEXEC_FOLDER))
    if program is None:
        raise ExportError(
            f"--tensorrt needs trtexec, which is neither on PATH nor in {TRTEXEC_FOLDER}: NVIDIA's images of Triton"
            " and TensorRT have it"
        )
    gpu, compute_capability = _gpu()
    found = _BANNER.search(_output([program, "--help"]) or "")
    if found is None:
        raise ExportError("--tensorrt: trtexec does not say which TensorRT it is of")
    version = _version(int(found[1]))
    if version < OLDEST:
        raise ExportError(
            f"--tensorrt needs TensorRT {'.'.join(map(str, OLDEST))} or newer, this trtexec is of"
            f" {'.'.join(map(str, version))}"
        )
    return Builder(program, ".".join(map(str, version)), gpu, compute_capability)


def _version(number: int) -> tuple[int, ...]:
    """Up to TensorRT 9 it was major · 1000 + minor · 100 + patch."""
    major = 10000 if number >= 100000 else 1000
    return number // major, number % major // 100, number % 100


def _gpu() -> tuple[str, str]:
    """Name and compute capability of the GPU that CUDA takes first."""
    command = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    said = _output([*command, f"--id={first}"] if first else command)
    lines = (said or "").strip().splitlines()
    name, _, capability = lines[0].rpartition(",") if lines else ("", "", "")
    if not name or not re.fullmatch(r"\d+\.\d+", capability.strip()):
        raise ExportError(
            "--tensorrt needs an NVIDIA GPU, and nvidia-smi shows none: plans are built on a machine of the kind that"
            " will serve them"
        )
    return name.strip(), capability.strip()


def _output(command: Sequence[str]) -> str | None:
    """Everything that a program prints; None when it cannot be started or fails."""
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=_ASK_SECONDS,
            text=True,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def require_operators(model: Path) -> None:
    """Before the minutes that a build takes. Without the package onnx trtexec itself has to say it.

    Raises:
        ExportError: the graph has a node that TensorRT does not take.
    """
    if importlib.util.find_spec("onnx") is None:
        return
    import onnx

    from florence2_sam2.export.tensorrt_operators import refused

    found = refused(onnx.load(model))
    if found:
        operators = ", ".join(sorted({row.operator for row in found}))
        fused = "; export with --attention parts" if "MultiHeadAttention" in operators else ""
        raise ExportError(
            f"TensorRT does not take {len(found)} nodes of {model.parents[1].name} ({operators}; {found[0].why}){fused}"
        )


def command(builder: Builder, model: Path, plan: Path, profile: dict[str, configs.Shapes]) -> list[str]:
    """trtexec's command line for the plan of a graph, for shapes as `configs.read_profile` has them."""
    shapes = [f"--{which}Shapes={configs.write_shapes(profile[which])}" for which in ("min", "opt", "max")]
    # On 11 the flag says nothing new, and a later one may not know it any more.
    typed = ["--stronglyTyped"] if builder.tensorrt.startswith("10.") else []
    return [
        builder.program,
        f"--onnx={model}",
        f"--saveEngine={plan}",
        *shapes,
        *typed,
        f"--memPoolSize=workspace:{WORKSPACE_MIB}",
        "--skipInference",
    ]


def build(stage: Path, models: Iterable[str], builder: Builder, report: Report) -> None:
    """Write the plans of these leaf models of the repository `stage` beside their graphs, and say so in the manifests.

    Raises:
        ExportError: TensorRT does not take a graph, or cannot build its plan.
    """
    for model in models:
        folder = version_folder(stage, model)
        graph, plan = folder / "model.onnx", folder / PLAN
        require_operators(graph)
        plan.unlink(missing_ok=True)  # it may be a link to the one that is served
        report(f"{model}: TensorRT {builder.tensorrt} builds its plan on {builder.gpu}, which takes minutes")
        _run(command(builder, graph, plan, configs.read_profile(stage / model)), model)
        if not plan.is_file():
            raise ExportError(f"trtexec has written no plan of {model}")
        _record(stage, model, plan, builder)
        report(f"{model}: {plan.stat().st_size / 1e6:.1f} MB of plan written")


def _run(arguments: list[str], model: str) -> None:
    try:
        done = subprocess.run(
            arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise ExportError(f"trtexec cannot be started ({error.strerror})") from None
    if done.returncode:
        wrong = [line for line in done.stdout.splitlines() if "[E]" in line]
        said = f": {wrong[0].partition('[E]')[2].strip()}" if wrong else ""
        raise ExportError(f"trtexec cannot build a plan of {model}{said}")


def _record(stage: Path, model: str, plan: Path, builder: Builder) -> None:
    half = HALVES[model]
    folder = version_folder(stage, _FOLDERS[half])
    exported = half.read(folder)
    name = plan.relative_to(stage).as_posix()
    with plan.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    (folder / manifest.MANIFEST).unlink()
    dataclasses.replace(
        exported, files={**exported.files, name: digest}, plans={**exported.plans, name: builder.plan}
    ).write(folder)


def add_plans(output: Path, report: Report = print) -> None:
    """Build the plans of a repository that `export` wrote, and put them into it in one move. Needs neither torch nor
    transformers, so that it can be done where the models will be served.

    Raises:
        ExportError: `output` is no such repository, there is nothing to build with, or a plan cannot be built. `output`
            is as it was then.
    """
    builder = find_builder()
    if (
        not (output / "sam2" / "1" / manifest.MANIFEST).is_file()
        and not (output / "florence2" / "1" / manifest.MANIFEST).is_file()
    ):
        raise ExportError(
            f"--output {output} is no repository that `export` wrote: give --florence2, --sam2 or both"
        )
    with repository.staged(output) as stage:
        there = [
            model
            for model, half in HALVES.items()
            if (stage / _FOLDERS[half] / "1" / manifest.MANIFEST).is_file()
        ]
        build(stage, there, builder, report)
    report(f"{output} has plans for TensorRT {builder.tensorrt} on {builder.gpu} and its like")
