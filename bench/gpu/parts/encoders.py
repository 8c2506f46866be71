"""How long an encoder takes for a batch, its tensors in the GPU's memory."""

from __future__ import annotations

from statistics import median

from bench.gpu.job import Job
from bench.gpu.side import ENCODERS
from bench.speed.results import Result, Row, Table

BATCHES = (1, 2, 4, 8)


def run(job: Job) -> Result:
    rows, lines, raw = [], [], {}
    for precision, repository in job.repositories().items():
        for name, model in ENCODERS.items():
            seconds = {}
            for batch in BATCHES[:2] if job.quick else BATCHES:
                # Each in a process of its own: the arena of a larger batch would stay.
                with job.side(repository) as side:
                    seconds[batch] = side.call("encoder", model, batch, job.times(20))
            middle = {batch: 1e3 * median(runs) for batch, runs in seconds.items()}
            raw[f"{precision} {model}"] = {str(batch): runs for batch, runs in seconds.items()}
            rows.append(Row(f"{precision}: {name}, one picture", middle[1], "ms"))
            lines += [
                [precision, name, str(batch), f"{ms:.2f}", f"{ms / batch:.2f}"]
                for batch, ms in middle.items()
            ]
    head = ["precision", "encoder", "pictures", "ms", "ms a picture"]
    return Result(rows, [Table(f"Encoders on {job.provider}", head, lines)], raw)
