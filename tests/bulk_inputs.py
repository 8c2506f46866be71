"""For the tests of `florence2-sam2 bulk`: inputs of its kinds, and a worker in this process in place of Ray's."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from florence2_sam2.bulk import cluster
from florence2_sam2.bulk.shard import Told
from florence2_sam2.bulk.worker import Job, Outcome, Worker


def write_tar(path: Path, members: Sequence[tuple[str, bytes]], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def write_parquet(path: Path, columns: Mapping[str, Any], rows: int = 1000) -> None:
    """`rows`: of a row group."""
    pq.write_table(pa.table(dict(columns)), path, row_group_size=rows)


@contextlib.contextmanager
def _nothing(*_: Any) -> Iterator[None]:
    yield


def _in_turn(
    shards: Sequence[int], job: Job, workers: int, tick: Callable[[Mapping[int, Told]], None]
) -> Generator[Outcome, None, None]:
    worker = Worker(job, lambda told: tick({told.shard: told}))
    try:
        for shard in shards:
            yield worker.shard(shard)
    finally:
        worker.close()


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker in this process does all shards."""
    monkeypatch.setattr(cluster, "connected", _nothing)
    monkeypatch.setattr(cluster, "outcomes", _in_turn)
