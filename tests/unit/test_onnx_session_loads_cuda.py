"""CUDA is looked for when a session is to run on a GPU, once, and not otherwise; and what providers are told."""

from __future__ import annotations

from collections.abc import Iterator

import onnxruntime
import pytest

from florence2_sam2.server import onnx_session
from florence2_sam2.server.generation import tiny_graphs
from florence2_sam2.server.launch.checks import check_providers
from florence2_sam2.server.launch.errors import StartError
from florence2_sam2.server.manifest import packaged_repository
from florence2_sam2.server.onnx_session import (
    CPU,
    CUDA,
    PROVIDER_OPTIONS_VARIABLE,
    PROVIDERS_VARIABLE,
    TENSORRT,
    ProviderError,
)

LEAF = packaged_repository() / "sam2_mask_decoder" / "1" / "model.onnx"


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


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", {}),
        (" , ", {}),
        ("use_tf32=0", {"use_tf32": "0"}),
        (" use_tf32=0 , gpu_mem_limit = 4294967296,", {"use_tf32": "0", "gpu_mem_limit": "4294967296"}),
    ],
)
def test_a_providers_options_are_read(
    monkeypatch: pytest.MonkeyPatch, text: str, told: dict[str, str]
) -> None:
    monkeypatch.setenv(PROVIDER_OPTIONS_VARIABLE, text)
    assert onnx_session.provider_options() == told


def test_they_are_for_the_first_provider_and_for_none_that_is_named_in_the_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []

    def session(model: object, options: object, providers: object) -> onnxruntime.InferenceSession:
        asked.append(providers)
        return original(model, options, providers=[CPU])

    original = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setenv(PROVIDERS_VARIABLE, CPU)
    monkeypatch.setenv(PROVIDER_OPTIONS_VARIABLE, "arena_extend_strategy=kSameAsRequested")
    onnx_session.open_session(LEAF)
    onnx_session.open_session(LEAF, [CPU])
    onnx_session.open_graph(tiny_graphs.zeros())
    told = {"arena_extend_strategy": "kSameAsRequested"}
    assert asked == [[(CPU, told)], [(CPU, {})], [(CPU, told)]]


def test_small_graphs_run_on_cuda_where_tensorrt_is_wanted(
    loaded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    original = onnxruntime.InferenceSession

    def session(model: object, options: object, providers: object) -> onnxruntime.InferenceSession:
        asked.append(providers)
        return original(model, options, providers=[CPU])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setenv(PROVIDERS_VARIABLE, f"{TENSORRT},{CUDA}")
    monkeypatch.setenv(PROVIDER_OPTIONS_VARIABLE, "trt_fp16_enable=1")
    with pytest.raises(ProviderError, match=f"a graph runs on {CPU}, not on {CUDA}"):
        onnx_session.open_graph(tiny_graphs.zeros())
    assert asked == [[(CUDA, {})]]


@pytest.mark.parametrize("text", ["use_tf32", "use_tf32=", "=0", "use_tf32=0,x"])
def test_malformed_options_are_said_before_a_server_starts(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(PROVIDER_OPTIONS_VARIABLE, text)
    with pytest.raises(
        StartError, match=f"{PROVIDER_OPTIONS_VARIABLE} has '.*', expected name=value,name=value"
    ):
        check_providers()
