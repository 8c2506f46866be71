"""SAM2's features between its encoder and its mask decoder, where they lie on a GPU and where they do not.

There is no GPU here: tensors that say they are on one stand for Triton's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from florence2_sam2.server.manifest import packaged_repository
from florence2_sam2.server.segment.memory import Memory
from florence2_sam2.server.segment.models import Picture, Sam2Maps
from florence2_sam2.server.segment.seen import Seen
from florence2_sam2.server.segment.triton_models import MAPS, GpuMaps, TritonModels
from florence2_sam2.server.triton import bls

PICTURE = Picture.of(np.zeros((48, 64, 3), np.uint8), b"picture", (64, 48))
BOXES = np.array([[1, 2, 30, 40]], np.float32)


class Tensor:
    def __init__(self, on_gpu: bool) -> None:
        self._on_gpu = on_gpu

    def is_cpu(self) -> bool:
        return not self._on_gpu

    def as_numpy(self) -> np.ndarray:
        assert not self._on_gpu, "Triton cannot read a GPU's memory"
        return np.ones((1, 2, 3, 4), np.float32)


class Server:
    """Answers BLS calls, and notes them."""

    def __init__(self, has_gpu: bool) -> None:
        self.has_gpu = has_gpu
        self.wanted: list[bool] = []
        self.maps: list[dict[str, Any]] = []

    async def call_for_tensors(
        self, model: str, inputs: Any, outputs: Any, alone: bool = False, on_gpu: bool = False
    ) -> dict[str, Tensor]:
        assert model == "sam2_image_encoder"
        self.wanted.append(on_gpu)
        return {name: Tensor(on_gpu and self.has_gpu) for name in outputs}

    async def call(self, model: str, inputs: Any, outputs: Any, alone: bool = False) -> dict[str, np.ndarray]:
        assert model == "sam2_mask_decoder"
        self.maps.append({name: inputs[name] for name in MAPS})
        return {"mask_logits": np.zeros((len(BOXES), 4, 4), np.float32), "scores": np.ones(1, np.float32)}


async def run(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def asked(monkeypatch: pytest.MonkeyPatch, server: Server, features_on_gpu: bool, memory: Memory) -> None:
    """Two calls about one picture, the first with two chunks of boxes, the second with boxes of its own."""
    monkeypatch.setattr(bls, "call_for_tensors", server.call_for_tensors)
    monkeypatch.setattr(bls, "call", server.call)
    models = TritonModels(packaged_repository(), run, features_on_gpu=features_on_gpu)

    async def calls() -> None:
        first = Seen(models, memory, PICTURE, "interactive", run)
        await first.masks(BOXES)
        await first.masks(BOXES + 1)
        await Seen(models, memory, PICTURE, "interactive", run).masks(BOXES + 2)

    asyncio.run(calls())
    models.close()


def test_on_a_gpu_they_are_handed_on_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    server, memory = Server(has_gpu=True), Memory(10**9)
    asked(monkeypatch, server, True, memory)
    assert server.wanted == [True, True]  # each call encodes the picture once
    first, again, second = server.maps
    assert all(isinstance(value, Tensor) and not value.is_cpu() for value in first.values())
    assert again == first
    assert all(second[name] is not first[name] for name in MAPS)
    assert memory.bytes < 10_000  # logits


@pytest.mark.parametrize(("has_gpu", "features_on_gpu"), [(False, True), (True, False)])
def test_elsewhere_they_are_kept(
    monkeypatch: pytest.MonkeyPatch, has_gpu: bool, features_on_gpu: bool
) -> None:
    server, memory = Server(has_gpu), Memory(10**9)
    asked(monkeypatch, server, features_on_gpu, memory)
    assert server.wanted == [features_on_gpu]
    first, again, second = server.maps
    assert all(isinstance(value, Tensor) for value in first.values())  # where they lay, once
    for maps in (again, second):
        assert all(isinstance(value, np.ndarray) and not value.flags.writeable for value in maps.values())


def test_they_are_read_only() -> None:
    maps = Sam2Maps(*(np.zeros(3, np.float32) for _ in MAPS))
    assert maps.nbytes == 36
    with pytest.raises(ValueError, match="read-only"):
        maps.image_embeddings[0] = 1


def test_those_of_a_gpu_fit_into_no_memory() -> None:
    memory = Memory(2**62)
    maps = GpuMaps({})
    memory.keep("key", maps, maps.nbytes)
    assert memory.peek("key") is None
