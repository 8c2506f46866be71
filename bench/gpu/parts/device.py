"""The GPU, its driver, and where the nodes of each graph really run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.gpu.job import Job
from bench.gpu.machine import FIELDS, gpus
from bench.speed.results import Result, Row, Table
from florence2_sam2.server.onnx_session import CPU

# Shapes are computed on the host, and their nodes take next to no time.
LEAST_TIME = 0.95


def run(job: Job) -> Result:
    rows, lines, raw = [], [], {}
    for precision, repository in job.repositories().items():
        with tempfile.TemporaryDirectory() as folder:
            with job.side(repository, CPU) as cpu:
                cpu.call("keep", job.picture(), job.fixed_boxes, Path(folder))
            with job.side(repository) as side:
                placed = side.call("placed", Path(folder))
        raw[precision] = placed
        shares = []
        for name, providers in placed:
            count = sum(nodes for nodes, _ in providers.values())
            seconds = sum(spent for _, spent in providers.values())
            nodes, spent = providers.get(job.provider, (0, 0.0))
            shares.append(spent / seconds if seconds else 0.0)
            lines.append([precision, name, f"{nodes} of {count}", f"{100 * shares[-1]:.1f} %"])
        what = f"{precision}: node time on {job.provider}, the graph that has least"
        rows.append(Row(what, min(shares, default=0.0), "share", LEAST_TIME))
    found = gpus()
    tables = [
        Table("GPUs", list(FIELDS.values()), [list(gpu.values()) for gpu in found]),
        Table(
            f"Nodes that run on {job.provider}",
            ["precision", "graph", "nodes", "of the nodes' time"],
            lines,
        ),
    ]
    return Result(rows, tables[0 if found else 1 :], {"gpus": found, "placed": raw})
