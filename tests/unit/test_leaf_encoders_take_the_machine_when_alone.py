"""An encoder of a small model has a second session for a request that is alone, which answers the same, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from florence2_sam2.server import leaf, onnx_session
from florence2_sam2.server.manifest import packaged_repository

ENCODERS = {
    "florence2_vision_encoder": ["image_features"],
    "sam2_image_encoder": ["image_embeddings", "high_res_features_0", "high_res_features_1"],
}


class Request:
    def __init__(self, **parameters: Any) -> None:
        self._parameters = parameters

    def parameters(self) -> str:
        return json.dumps(self._parameters)


def encoder(model: str) -> leaf.EncoderModel:
    config = {"input": [{"name": "pixels"}], "output": [{"name": name} for name in ENCODERS[model]]}
    made = leaf.EncoderModel()
    made.initialize(
        {
            "model_name": model,
            "model_repository": str(packaged_repository() / model),
            "model_version": "1",
            "model_config": json.dumps(config),
        }
    )
    return made


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(onnx_session.THREADS_VARIABLE, raising=False)
    monkeypatch.setattr(onnx_session, "cores", lambda: 4)


@pytest.mark.parametrize("model", ENCODERS)
def test_the_same_bits_from_another_session(model: str, four_cores: None) -> None:
    made = encoder(model)
    alone, ordinary = made.session_for(Request(alone=True)), made.session_for(Request())  # type: ignore[arg-type]
    assert ordinary.get_session_options().intra_op_num_threads == 1
    if alone is ordinary:
        pytest.skip("this processor's kernels do not give the same bits, so there is one session")
    assert alone.get_session_options().intra_op_num_threads == 4
    (node,) = ordinary.get_inputs()
    shape = [side if isinstance(side, int) else 1 for side in node.shape]
    for seed in range(3):
        feeds = {node.name: np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)}
        for one, other in zip(ordinary.run(None, feeds), alone.run(None, feeds), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_session_with_other_bits_is_not_used(four_cores: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaf.EncoderModel, "_gives_the_same", lambda *_: False)
    made = encoder("florence2_vision_encoder")
    assert made.session_for(Request(alone=True)) is made.session_for(Request())  # type: ignore[arg-type]


def test_other_bits_are_noticed(four_cores: None) -> None:
    made = encoder("sam2_image_encoder")

    class Other:
        def get_inputs(self) -> Any:
            return made._session.get_inputs()

        def run(self, names: Any, feeds: Any) -> Any:
            results = made._session.run(names, feeds)
            results[1].flat[7] = np.nextafter(results[1].flat[7], np.float32(np.inf))
            return results

    assert made._gives_the_same(made._session)
    assert not made._gives_the_same(Other())


@pytest.mark.parametrize(
    ("cores", "environment", "size", "expected"),
    [(1, None, 10, 0), (2, None, 10, 2), (16, None, 10, 4), (16, "3", 10, 0), (16, None, 2**24, 0)],
)
def test_how_many_threads(
    cores: int,
    environment: str | None,
    size: int,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(onnx_session, "cores", lambda: cores)
    monkeypatch.delenv(onnx_session.THREADS_VARIABLE, raising=False)
    if environment:
        monkeypatch.setenv(onnx_session.THREADS_VARIABLE, environment)
    file = tmp_path / "model.onnx"
    file.write_bytes(bytes(size))
    assert onnx_session.threads_alone(file) == expected
