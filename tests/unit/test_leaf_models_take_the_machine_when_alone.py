"""A small model, of pictures, prompts or masks, has a second session for who is alone: the same bits come out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from florence2_sam2.server import leaf, manifest, onnx_session
from florence2_sam2.server.generation.decoder import Decoder
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


ALONE: Any = Request(alone=True)
ORDINARY: Any = Request()


def encoder(model: str) -> leaf.EncoderModel:
    return loaded(leaf.EncoderModel(), model, ["pixels"], ENCODERS[model])


def mask_decoder() -> leaf.MaskDecoderModel:
    maps = ENCODERS["sam2_image_encoder"]
    made = leaf.MaskDecoderModel()
    return loaded(made, "sam2_mask_decoder", [*maps, "boxes"], ["mask_logits", "scores"])


M = TypeVar("M", bound=leaf.OnnxModel)


def loaded(made: M, model: str, inputs: list[str], outputs: list[str]) -> M:
    config = {
        "input": [{"name": name} for name in inputs],
        "output": [{"name": name} for name in outputs],
    }
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
    alone, ordinary = made.session_for(ALONE, {}), made.session_for(ORDINARY, {})
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
    made = encoder("sam2_image_encoder")

    class Other:
        def run(self, names: Any, feeds: Any) -> Any:
            results = made._session.run(names, feeds)
            results[1].flat[7] = np.nextafter(results[1].flat[7], np.float32(np.inf))
            return results

    other: Any = Other()
    monkeypatch.setattr(onnx_session, "open_session", lambda *_, **__: other)
    path = made.folder / leaf.MODEL_FILE
    assert onnx_session.session_alone(path, made._session, made.tries()) is made._session
    assert onnx_session.session_alone(path, other, made.tries()) is other  # the same as itself


@pytest.mark.parametrize("count", [1, 3, 4, 7, 32])
def test_the_mask_decoder_for_several_boxes(count: int, four_cores: None) -> None:
    made = mask_decoder()
    feeds = made.noise(count)
    ordinary, alone = made.session_for(ORDINARY, feeds), made.session_for(ALONE, feeds)
    assert ordinary.get_session_options().intra_op_num_threads == 1
    if count < made.FEWEST:
        assert alone is ordinary
        return
    if alone is ordinary:
        pytest.skip("this processor's kernels do not give the same bits, so there is one session")
    assert alone.get_session_options().intra_op_num_threads == 4
    for one, other in zip(ordinary.run(None, feeds), alone.run(None, feeds), strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_array_equal(one, other)


def test_the_text_encoder_too(four_cores: None) -> None:
    """For prompts of every length, not only those that it is tried with."""
    folder = packaged_repository() / "florence2" / "1"
    spec = manifest.Florence2.read(folder)
    decoder = Decoder(folder, spec, max_rows=1)
    if decoder._text_encoder_alone is decoder._text_encoder:
        pytest.skip("this processor's kernels do not give the same bits, so there is one session")
    assert decoder._text_encoder_alone.get_session_options().intra_op_num_threads == 4
    noise = np.random.default_rng(0)
    features = noise.standard_normal((spec.image_tokens, spec.feature_dim), np.float32)
    for length in (3, 4, 5, 7, 9, 16, 17, 31, 64, 100):
        prompt = noise.integers(5, 400, length)
        pairs = zip(
            decoder.encode(features, prompt).arrays,
            decoder.encode(features, prompt, alone=True).arrays,
            strict=True,
        )
        assert all(np.array_equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(
    ("cores", "environment", "size", "expected"),
    [
        (1, {}, 10, 0),
        (2, {}, 10, 2),
        (16, {}, 10, 4),
        (16, {onnx_session.THREADS_VARIABLE: "3"}, 10, 0),
        (16, {onnx_session.PROVIDERS_VARIABLE: "CUDAExecutionProvider"}, 10, 0),
        (16, {}, 2**24, 0),
    ],
)
def test_how_many_threads(
    cores: int,
    environment: dict[str, str],
    size: int,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(onnx_session, "cores", lambda: cores)
    monkeypatch.delenv(onnx_session.THREADS_VARIABLE, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "model.onnx"
    file.write_bytes(bytes(size))
    assert onnx_session.threads_alone(file) == expected
