"""How long a token takes with 1, 8 and 16 sequences that decode together."""

from __future__ import annotations

from statistics import median

from bench.gpu.job import Job
from bench.speed.decoding import Decoding
from bench.speed.results import Result, Row, Table
from bench.speed.worker import SERVERS_ENVIRONMENT, Worker
from florence2_sam2.server.onnx_session import PROVIDERS_VARIABLE

SEQUENCES = (1, 8, 16)


def run(job: Job) -> Result:
    rows, lines, raw = [], [], {}
    environment = {**SERVERS_ENVIRONMENT, PROVIDERS_VARIABLE: job.provider}
    for precision, repository in job.repositories().items():
        with Worker(Decoding, repository, SEQUENCES[-1], environment=environment) as worker:
            worker.call("steps", SEQUENCES[-1], 4)
            for count in SEQUENCES:
                steps = worker.call("steps", count, 6 if job.quick else 100)
                step = 1e3 * median(steps)
                raw[f"{precision} {count}"] = steps
                lines.append([precision, str(count), f"{step:.2f}", f"{step / count:.3f}"])
                if count == 1:
                    rows.append(Row(f"{precision}: a decoder step, one sequence", step, "ms"))
    head = ["precision", "sequences", "ms a step", "ms a token and sequence"]
    return Result(rows, [Table(f"Decoding on {job.provider}", head, lines)], raw)
