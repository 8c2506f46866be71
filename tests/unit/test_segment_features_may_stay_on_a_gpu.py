"""Features between their encoder and the model that takes them, where they lie on a GPU and where they do not.

There is no GPU here: tensors that say they are on one stand for Triton's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from florence2_sam2.server.manifest import packaged_repository
from florence2_sam2.server.segment.memory import Memory
from florence2_sam2.server.segment.models import GenerationOptions, Picture, Sam2Maps
from florence2_sam2.server.segment.seen import Seen
from florence2_sam2.server.segment.triton_models import MAPS, OnGpu, TritonModels
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
        self.pictures: list[Any] = []

    async def call_for_tensors(
        self, model: str, inputs: Any, outputs: Any, alone: bool = False, on_gpu: bool = False
    ) -> dict[str, Tensor]:
        assert model in ("florence2_vision_encoder", "sam2_image_encoder")
        self.wanted.append(on_gpu)
        return {name: Tensor(on_gpu and self.has_gpu) for name in outputs}

    async def call(self, model: str, inputs: Any, outputs: Any, alone: bool = False) -> dict[str, np.ndarray]:
        assert model == "sam2_mask_decoder"
        self.maps.append({name: inputs[name] for name in MAPS})
        return {"mask_logits": np.zeros((len(BOXES), 4, 4), np.float32), "scores": np.ones(1, np.float32)}

    async def call_with_line(
        self, model: str, inputs: Any, outputs: Any, heard: Any, when_heard: Any, alone: bool, parameters: Any
    ) -> dict[str, np.ndarray]:
        assert model == "florence2"
        self.pictures.append(inputs["image_features"])
        answer = {"text": b"a disc", "regions": b"[]", "info": b'{"warnings": []}'}
        return {name: np.array([answer[name]], object) for name in outputs}


async def run(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def asked(
    monkeypatch: pytest.MonkeyPatch,
    server: Server,
    features_on_gpu: bool,
    memory: Memory,
    ask: Callable[[Seen, int], Awaitable[Any]],
) -> None:
    """Two calls about one picture with three questions, two of them the first call's."""
    for name in ("call_for_tensors", "call", "call_with_line"):
        monkeypatch.setattr(bls, name, getattr(server, name))
    models = TritonModels(packaged_repository(), run, features_on_gpu=features_on_gpu)

    async def calls() -> None:
        first = Seen(models, memory, PICTURE, "interactive", run)
        await ask(first, 0)
        await ask(first, 1)
        await ask(Seen(models, memory, PICTURE, "interactive", run), 2)

    asyncio.run(calls())
    models.close()


async def masks(seen: Seen, number: int) -> None:
    await seen.masks(BOXES + number)


async def grounding(seen: Seen, number: int) -> None:
    caption = f"{number} discs"
    await seen.generate("<CAPTION_TO_PHRASE_GROUNDING>", caption, GenerationOptions(), lambda: None)


def test_on_a_gpu_they_are_handed_on_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    server, memory = Server(has_gpu=True), Memory(10**9)
    asked(monkeypatch, server, True, memory, masks)
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
    asked(monkeypatch, server, features_on_gpu, memory, masks)
    assert server.wanted == [features_on_gpu]
    first, again, second = server.maps
    assert all(isinstance(value, Tensor) for value in first.values())  # where they lay, once
    for maps in (again, second):
        assert all(isinstance(value, np.ndarray) and not value.flags.writeable for value in maps.values())


def test_florence2s_are_handed_on_from_a_gpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    server, memory = Server(has_gpu=True), Memory(10**9)
    asked(monkeypatch, server, True, memory, grounding)
    assert server.wanted == [True, True]
    first, again, second = server.pictures
    assert isinstance(first, Tensor)
    assert not first.is_cpu()
    assert again is first
    assert isinstance(second, Tensor)
    assert second is not first
    assert memory.bytes < 10_000  # texts


@pytest.mark.parametrize(("has_gpu", "features_on_gpu"), [(False, True), (True, False)])
def test_elsewhere_florence2s_are_kept(
    monkeypatch: pytest.MonkeyPatch, has_gpu: bool, features_on_gpu: bool
) -> None:
    server, memory = Server(has_gpu), Memory(10**9)
    asked(monkeypatch, server, features_on_gpu, memory, grounding)
    assert server.wanted == [features_on_gpu]
    first, again, second = server.pictures
    assert isinstance(first, np.ndarray)
    assert not first.flags.writeable
    assert again is first
    assert second is first


def test_they_are_read_only() -> None:
    maps = Sam2Maps(*(np.zeros(3, np.float32) for _ in MAPS))
    assert maps.nbytes == 36
    with pytest.raises(ValueError, match="read-only"):
        maps.image_embeddings[0] = 1


def test_those_of_a_gpu_fit_into_no_memory() -> None:
    memory = Memory(2**62)
    maps = OnGpu({})
    memory.keep("key", maps, maps.nbytes)
    assert memory.peek("key") is None
