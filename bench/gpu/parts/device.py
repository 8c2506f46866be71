"""The GPU, its driver, and where the nodes of each graph really run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.gpu.job import Job
from bench.gpu.machine import FIELDS, gpus
from bench.speed.results import Result, Row, Table
from florence2_sam2.server.onnx_session import CPU

# What computes. The rest, shapes above all, may be elsewhere and takes next to no time.
LARGE = ("MatMul", "Gemm", "Conv", "Attention", "Softmax", "LayerNormalization", "Gelu")


def run(job: Job) -> Result:
    rows, lines, raw = [], [], {}
    for precision, repository in job.repositories().items():
        with tempfile.TemporaryDirectory() as folder:
            with job.side(repository, CPU) as cpu:
                cpu.call("keep", job.picture(), job.fixed_boxes, Path(folder))
            with job.side(repository) as side:
                placed = side.call("placed", Path(folder))
        raw[precision] = placed
        astray = 0
        for name, providers in placed:
            here = sum(providers.get(job.provider, {}).values())
            elsewhere = {
                operator: count
                for provider, operators in providers.items()
                if provider != job.provider
                for operator, count in operators.items()
            }
            astray += sum(count for operator, count in elsewhere.items() if _is_large(operator))
            shown = ", ".join(f"{count} {operator}" for operator, count in sorted(elsewhere.items()))
            lines.append([precision, name, str(here), shown])
        rows.append(
            Row(f"{precision}: products, convolutions, norms not on {job.provider}", astray, "", 0.0, True)
        )
    found = gpus()
    tables = [
        Table("GPUs", list(FIELDS.values()), [list(gpu.values()) for gpu in found]),
        Table(
            f"Nodes that run on {job.provider}",
            ["precision", "graph", "nodes", "nodes elsewhere"],
            lines,
        ),
    ]
    return Result(rows, tables[0 if found else 1 :], {"gpus": found, "placed": raw})


def _is_large(operator: str) -> bool:
    """Fused and quantised forms have the names within theirs."""
    return any(name in operator for name in LARGE)
