"""What the graphs and the decoding loop give on the GPU, against the CPU's fp32."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.gpu.job import Job
from bench.gpu.side import CAPTION
from bench.speed.results import Result, Row, Table
from florence2_sam2.server.onnx_session import CPU

# Of an output's largest value. CUDA multiplies float32 numbers with 10 bits of their mantissa by default (TF32), and
# float16 has no more.
ALLOWED = {"fp32": 0.02, "fp16": 0.04, "fp32, no TF32": 0.001}
TOKENS = 60


def run(job: Job) -> Result:
    rows, lines, raw = [], [], {}
    repositories = job.repositories()
    exact = repositories.get("fp32", next(iter(repositories.values())))
    tokens = 12 if job.quick else TOKENS
    with tempfile.TemporaryDirectory() as folder:
        with job.side(exact, CPU) as cpu:
            cpu.call("keep", job.picture(), job.fixed_boxes, Path(folder))
            expected = {
                beams: cpu.call("text", job.picture(), CAPTION, "", beams, tokens) for beams in (1, 3)
            }
        for precision, repository in repositories.items():
            with job.side(repository) as side:
                errors = side.call("errors", Path(folder))
                texts = {
                    beams: side.call("text", job.picture(), CAPTION, "", beams, tokens) for beams in expected
                }
            raw[precision] = {"errors": errors, "texts": {str(beams): text for beams, text in texts.items()}}
            worst = max(error / scale for _, _, error, scale in errors if scale)
            rows.append(
                Row(f"{precision}: largest error of an output", worst, "share", ALLOWED[precision], True)
            )
            if precision == "fp32":
                rows.append(_without_tf32(job, repository, Path(folder)))
            for beams, text in texts.items():
                same = _leading(text, expected[beams]) / max(len(expected[beams]), 1)
                rows.append(
                    Row(
                        f"{precision}, {beams} beam{'s' * (beams > 1)}: tokens up to the first other one, of the CPU's",
                        same,
                        "share",
                        1.0 if precision == "fp32" and not job.fixed_boxes else None,
                    )
                )
            lines += [
                [precision, name, output, f"{error:.2e}", f"{scale:.2e}"]
                for name, output, error, scale in errors
                if not output.startswith(("cross_", "new_"))
            ]
    head = ["precision", "graph", "output", "largest error", "largest value"]
    table = Table(f"On {job.provider}, against fp32 on the CPU", head, lines)
    return Result(rows, [table], raw)


def _without_tf32(job: Job, repository: Path, folder: Path) -> Row:
    """With whole float32 products a mistake of ours cannot hide behind rounding."""
    with job.side(repository, told="use_tf32=0" if job.is_on_gpu() else "") as side:
        worst = max(error / scale for _, _, error, scale in side.call("errors", folder) if scale)
    what = "fp32, no TF32"
    return Row(f"{what}: largest error of an output", worst, "share", ALLOWED[what], True)


def _leading(one: list[int], other: list[int]) -> int:
    """How many tokens are the same from the beginning on."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
