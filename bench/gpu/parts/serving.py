"""The embedded server with its models on the GPU: the time of a call, of eight at once, and what memory it takes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from bench.gpu.job import Job
from bench.gpu.machine import used_mib
from bench.speed.results import Result, Row, Table
from florence2_sam2.client import Segmentation, Segmenter
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.onnx_session import CPU, PROVIDERS_VARIABLE
from florence2_sam2.server.settings import Settings

READY_SECONDS = 1800.0
CALLERS = 8
SETTINGS: dict[str, Any] = {"formats": ["rle"], "num_beams": 1}
MIB_IN_MB = 2**20 / 1e6


def run(job: Job) -> Result:
    rows, lines, raw = [], [], {}
    pictures = [job.picture(number) for number in range(2 if job.quick else 10)]
    repositories = job.repositories()
    exact = repositories.get("fp32", next(iter(repositories.values())))
    with _server(exact, CPU) as segmenter:
        expected = [segmenter.segment(picture, **SETTINGS) for picture in pictures]
    for precision, repository in repositories.items():
        before = used_mib()
        with _server(repository, job.provider) as segmenter:
            ready = used_mib()
            answers, alone = zip(*(_timed(segmenter, picture) for picture in pictures), strict=True)
            start = time.perf_counter()
            with ThreadPoolExecutor(CALLERS) as pool:
                list(pool.map(lambda picture: segmenter.segment(picture, **SETTINGS), pictures * 2))
            together = time.perf_counter() - start
            loaded = used_mib()
        same = sum(map(_alike, answers, expected)) / len(expected)
        rate = 2 * len(pictures) / together
        rows += [
            Row(f"{precision}: a call alone, median", 1e3 * median(alone), "ms"),
            Row(f"{precision}: {CALLERS} callers", rate, "calls/s"),
            Row(
                f"{precision}: answers with the CPU's caption, labels and nearly its boxes",
                same,
                "share",
                0.9 if precision == "fp32" and not job.fixed_boxes else None,
            ),
        ]
        if before is not None and ready is not None and loaded is not None:
            peak = max(ready, loaded) - before
            rows.append(Row(f"{precision}: the GPU's memory", peak * MIB_IN_MB, "MB"))
        lines.append([precision, f"{1e3 * median(alone):.0f}", f"{rate:.2f}", f"{same:.2f}"])
        raw[precision] = {
            "alone": alone,
            "together": together,
            "before": before,
            "ready": ready,
            "loaded": loaded,
        }
    head = ["precision", "ms a call alone", f"calls/s with {CALLERS} callers", "answers as the CPU's"]
    return Result(rows, [Table(f"Serving on {job.provider}, greedy, 640×480", head, lines)], raw)


@contextmanager
def _server(repository: Path, provider: str) -> Iterator[Segmenter]:
    before = os.environ.get(PROVIDERS_VARIABLE)
    os.environ[PROVIDERS_VARIABLE] = provider
    server = EmbeddedServer(repository, settings=Settings(memory_bytes=0))  # each call pays for its picture
    try:
        server.start()
        server.wait_ready(READY_SECONDS)
        with Segmenter(server.grpc_address, timeout=READY_SECONDS) as segmenter:
            yield segmenter
        server.stop()
    finally:
        server.kill()
        if before is None:
            del os.environ[PROVIDERS_VARIABLE]
        else:
            os.environ[PROVIDERS_VARIABLE] = before


def _timed(segmenter: Segmenter, picture: bytes) -> tuple[Segmentation, float]:
    start = time.perf_counter()
    answer = segmenter.segment(picture, **SETTINGS)
    return answer, time.perf_counter() - start


def _alike(one: Segmentation, other: Segmentation) -> bool:
    """The same caption and labels, and boxes that differ by no more than a hundredth of the picture's width."""
    if one.caption != other.caption or [o.label for o in one.objects] != [o.label for o in other.objects]:
        return False
    limit = other.width / 100
    pairs = [zip(a.box, b.box, strict=True) for a, b in zip(one.objects, other.objects, strict=True)]
    return all(abs(x - y) <= limit for pair in pairs for x, y in pair)
