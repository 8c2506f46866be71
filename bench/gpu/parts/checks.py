"""What needs no GPU: operators, precision and configs of both exports, as TensorRT and Triton would read them."""

from __future__ import annotations

from pathlib import Path

from bench.gpu.job import Job
from bench.speed.results import Result, Row, Table
from florence2_sam2.export.configs import read_profile
from florence2_sam2.export.tensorrt import HALVES
from florence2_sam2.server import manifest
from florence2_sam2.server.manifest import Exported


def run(job: Job) -> Result:
    import onnx  # not at the top: the part can be named without it

    from florence2_sam2.export.tensorrt_operators import RELEASE, refused

    rows, lines = [], []
    for precision, repository in job.repositories().items():
        worst = 0.0
        for half in (manifest.read_florence2(repository), manifest.read_sam2(repository)):
            worst = max(worst, _largest_share(half))
        rows.append(
            Row(
                f"{precision}: largest difference from transformers, of what is allowed",
                worst,
                "share",
                1.0,
                True,
                note="float16 as hardware computes it",
            )
        )
        for leaf in HALVES:
            found = refused(onnx.load(manifest.version_folder(repository, leaf) / "model.onnx"))
            rows.append(Row(f"{precision}: nodes of {leaf} that TensorRT refuses", len(found), "", 0.0, True))
            lines += [[precision, leaf, _shown(repository, leaf)]]
    table = Table(
        f"What TensorRT builds engines for (operators: its parser of {RELEASE})",
        ["precision", "model", "inputs, from … to"],
        lines,
    )
    return Result(rows, [table], {"rows": [row.what for row in rows]})


def _largest_share(half: Exported) -> float:
    return max((row.max_abs_error / row.tolerance for row in half.parity.values()), default=0.0)


def _shown(repository: Path, leaf: str) -> str:
    profile = read_profile(repository / leaf)
    return ", ".join(
        f"{name} {'×'.join(map(str, profile['min'][name]))} … {'×'.join(map(str, profile['max'][name]))}"
        for name in profile["min"]
        if profile["min"][name] != profile["max"][name]
    )
