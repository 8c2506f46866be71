"""What the metrics are made of: the decoder's work, the time of calls by priority, masks that went to the store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from florence2_sam2 import __version__
from florence2_sam2.server import manifest
from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.generation.engine import Engine
from florence2_sam2.server.metrics import Metrics
from florence2_sam2.server.segment.described import LIMITS, describe
from florence2_sam2.server.segment.service import SegmentService
from florence2_sam2.server.settings import Settings
from florence2_sam2.server.store import Stored, StoreError
from tests.unit.test_generation_requests_share_a_decoder import GREEDY, HistoryDecoder, eventually, submit
from tests.unit.test_segment_again_makes_nothing_anew import REGIONS, png
from tests.unit.test_segment_pipeline_filters import DrawnModels, in_thread

IDENTITIES = {
    "florence2": {
        "checkpoint": "f",
        "sha256": "0123456789abcdef",
        "precision": "fp32",
        "decoder_weights": "int8",
    },
    "sam2": {"checkpoint": "s", "sha256": "fedcba9876543210", "precision": "fp16"},
}


@pytest.fixture
def decoder() -> HistoryDecoder:
    return HistoryDecoder(max_rows=8)


@pytest.fixture
def engine(decoder: HistoryDecoder) -> Iterator[Engine]:
    built = Engine(decoder)  # type: ignore[arg-type]
    yield built
    decoder.gate.set()
    built.close()


def test_each_greedy_token_is_a_row_of_a_step(engine: Engine, decoder: HistoryDecoder) -> None:
    texts = [submit(engine, [number], GREEDY).result(10) for number in range(3)]
    eventually(lambda: engine.load()["rows"] == 0)
    alone = sum(text.steps for text in texts)
    assert (engine.work.steps, engine.work.rows) == (alone, alone)

    decoder.gate.clear()
    waiting = [submit(engine, [number], GREEDY) for number in range(10, 16)]
    decoder.gate.set()
    together = sum(text.result(10).steps for text in waiting)
    eventually(lambda: engine.load()["rows"] == 0)
    assert engine.work.rows - alone == together
    assert engine.work.steps - alone == len(decoder.batches) - alone < together
    assert sum(decoder.batches) == engine.work.rows


def test_an_idle_engine_is_not_busy(engine: Engine, decoder: HistoryDecoder) -> None:
    assert engine.work.seconds == 0
    submit(engine, [1], GREEDY).result(10)
    eventually(lambda: engine.load()["rows"] == 0 and engine.work.seconds > 0)
    spent = engine.work.seconds
    asyncio.run(asyncio.sleep(0.05))
    assert engine.work.seconds == spent


class Store:
    """An object store that is there the first time."""

    def __init__(self) -> None:
        self.asked = 0

    def put(self, data: bytes) -> Stored:
        self.asked += 1
        if self.asked > 1:
            raise StoreError("the store is away")
        return Stored("https://store.example/mask.png", None)


def test_calls_are_counted_by_priority_and_only_those_that_are_answered() -> None:
    metrics = Metrics()
    models = DrawnModels(REGIONS)
    models.input_size = (64, 64)
    service = SegmentService(models, in_thread, Settings(), Store(), metrics)  # type: ignore[arg-type]

    async def ask(**inputs: Any) -> Any:
        return await service({"image": png(), **inputs}, lambda: False)

    async def all_of_them() -> list[Any]:
        answers = [await ask(output_mask=np.array([True])) for _ in range(2)]
        answers.append(await ask(options=b'{"priority": "bulk"}'))
        with pytest.raises(InvalidRequest):
            await ask(area_threshold=np.array([2], np.float32))
        return answers

    answers = asyncio.run(all_of_them())
    observed = metrics.take_observed()
    interactive = observed["segment_duration_seconds", (("priority", "interactive"),)]
    assert len(interactive) == 2
    assert len(observed["segment_duration_seconds", (("priority", "bulk"),)]) == 1
    stages = [sum(answer.result["timings_ms"].values()) / 1e3 for answer in answers[:2]]
    assert all(took + 1e-4 > stage > 0 for took, stage in zip(interactive, stages, strict=True))
    assert metrics.take_observed() == {}
    counted = metrics.values()
    assert [counted["masks_stored_total", (("how", how),)] for how in ("stored", "failed")] == [1, 1]


def test_a_server_says_what_it_runs_and_what_bounds_it() -> None:
    metrics = Metrics()
    describe(metrics, Settings(max_queue=7, memory_bytes=0), IDENTITIES)
    told = metrics.values()
    ((_, labels),) = [key for key in told if key[0] == "info"]
    assert dict(labels) == {
        "version": __version__,
        "florence2": "f",
        "florence2_sha256": "0123456789ab",
        "sam2": "s",
        "sam2_sha256": "fedcba987654",
        "precision": "fp32",
        "sam2_precision": "fp16",
        "decoder_weights": "int8",
    }
    limits = {dict(labels)["setting"]: value for (name, labels), value in told.items() if name == "limit"}
    assert limits.keys() == set(LIMITS)
    assert (limits["max_queue"], limits["memory_bytes"]) == (7, 0)
    assert not [key for key in told if key[0] == "masks_stored_total"]


def test_what_a_manifest_says_of_itself_is_enough() -> None:
    repository = manifest.packaged_repository()
    identities = {
        "florence2": manifest.read_florence2(repository).identity(),
        "sam2": manifest.read_sam2(repository).identity(),
    }
    metrics = Metrics()
    describe(metrics, Settings(store_url="file:///masks"), identities)
    told = metrics.values()
    assert {dict(labels)["how"] for name, labels in told if name == "masks_stored_total"} == {
        "stored",
        "failed",
    }
    refused = {dict(labels)["reason"] for name, labels in told if name == "segment_refused_total"}
    assert refused == {"queue full", "queue timeout", "fetches full"}
