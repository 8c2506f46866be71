"""CUDA's libraries are looked for when a session is to run on a GPU, once, and not otherwise."""

from __future__ import annotations

from collections.abc import Iterator

import onnxruntime
import pytest

from florence2_sam2.server import onnx_session
from florence2_sam2.server.generation import tiny_graphs
from florence2_sam2.server.onnx_session import CPU, CUDA, PROVIDERS_VARIABLE, TENSORRT, ProviderError


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """As with the wheel of `server-gpu`: its provider is there, and how often it was asked for its libraries."""
    calls: list[int] = []
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: calls.append(1), raising=False)
    onnx_session._load_cuda.cache_clear()
    yield calls
    onnx_session._load_cuda.cache_clear()


def test_for_a_cpu_nothing_is_loaded(loaded: list[int]) -> None:
    onnx_session._require([CPU])
    assert loaded == []


@pytest.mark.parametrize("wanted", [[CUDA], [TENSORRT], [TENSORRT, CUDA], [CUDA, CPU]])
def test_for_a_gpu_it_is_loaded_once(loaded: list[int], wanted: list[str]) -> None:
    for _ in range(3):
        onnx_session._require(wanted)
    assert loaded == [1]


def test_an_onnxruntime_from_before_it_could_do_that(
    loaded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(onnxruntime, "preload_dlls")
    onnx_session._require([CUDA])
    assert loaded == []


def test_a_provider_that_is_not_there_is_an_error_for_small_graphs_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(PROVIDERS_VARIABLE, "NoSuchExecutionProvider")
    with pytest.raises(ProviderError, match="onnxruntime has no NoSuchExecutionProvider; it has"):
        onnx_session.open_graph(tiny_graphs.zeros())


def test_a_session_on_the_cpu_has_its_memory_there() -> None:
    assert onnx_session.device_of(onnx_session.open_graph(tiny_graphs.zeros())) == "cpu"
