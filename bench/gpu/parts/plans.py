"""TensorRT's plans, where trtexec is: whether they are built, how long it takes, how large they are."""

from __future__ import annotations

import shutil
import time

from bench.gpu.job import Job, export
from bench.speed.prepare import linked_copy
from bench.speed.results import Result, Row, Table
from florence2_sam2.export.errors import ExportError
from florence2_sam2.export.tensorrt import HALVES, find_builder
from florence2_sam2.server.manifest import PLAN, version_folder


def run(job: Job) -> Result:
    try:
        builder = find_builder()
    except ExportError as missing:
        return Result(tables=[Table("Plans of TensorRT", [], [], f"None were built. {missing}")])
    rows, lines = [], []
    for precision, repository in job.repositories().items():
        copy = linked_copy(repository, job.output / f"plans-{precision}")
        start = time.perf_counter()
        export("--tensorrt", "--output", str(copy))
        rows.append(Row(f"{precision}: building the plans", time.perf_counter() - start, "s"))
        for leaf in HALVES:
            size = (version_folder(copy, leaf) / PLAN).stat().st_size
            lines.append([precision, leaf, f"{size / 1e6:.1f}"])
        shutil.rmtree(copy)
    title = f"Plans of TensorRT {builder.tensorrt} for {builder.gpu}"
    return Result(rows, [Table(title, ["precision", "model", "MB"], lines)])
