"""A leaf answers what its ONNX file answers, and refuses what does not fit without hurting its neighbours."""

from __future__ import annotations

import concurrent.futures
from pathlib import Path
from typing import Any

import grpc as plain_grpc
import numpy as np
import onnxruntime
import pytest
from calls import infer
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from florence2_sam2.server import manifest
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.manifest import packaged_repository

pytestmark = pytest.mark.server

REPOSITORY = packaged_repository()
SAM2 = manifest.read_sam2(REPOSITORY)
FLORENCE2 = manifest.read_florence2(REPOSITORY)
ENCODERS = {"florence2_vision_encoder": FLORENCE2.image, "sam2_image_encoder": SAM2.image}


def graph(model: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(Path(REPOSITORY) / model / "1" / "model.onnx"))


def direct(model: str, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    session = graph(model)
    return dict(zip([node.name for node in session.get_outputs()], session.run(None, feeds), strict=True))


def pixels(model: str, batch: int, seed: int = 0) -> NDArray[np.uint8]:
    spec = ENCODERS[model]
    return np.random.default_rng(seed).integers(256, size=(batch, 3, spec.height, spec.width), dtype=np.uint8)


def maps() -> dict[str, NDArray[np.float32]]:
    return direct("sam2_image_encoder", {"pixels": pixels("sam2_image_encoder", 1)})


def boxes(count: int) -> NDArray[np.float32]:
    corners = np.random.default_rng(count).uniform(0, SAM2.image.width, (count, 2, 2)).astype(np.float32)
    return np.sort(corners, axis=1).reshape(count, 4)


def refused(server: EmbeddedServer, model: str, inputs: dict[str, NDArray[Any]]) -> str:
    with pytest.raises(InferenceServerException) as caught:
        infer(server.grpc_address, model, inputs)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT", caught.value
    return str(caught.value.message())


@pytest.mark.parametrize("model", ENCODERS)
@pytest.mark.parametrize("batch", [1, 2])
def test_an_encoder(server: EmbeddedServer, model: str, batch: int) -> None:
    feeds = {"pixels": pixels(model, batch)}
    answer = infer(server.grpc_address, model, feeds)
    expected = direct(model, feeds)
    assert set(answer) == set(expected)
    for name in expected:
        np.testing.assert_allclose(answer[name], expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, 7, 40])
def test_the_mask_decoder(server: EmbeddedServer, count: int) -> None:
    feeds = {**maps(), "boxes": boxes(count)}
    answer = infer(server.grpc_address, "sam2_mask_decoder", feeds)
    assert answer["mask_logits"].shape == (count, SAM2.mask_size, SAM2.mask_size)
    expected = direct("sam2_mask_decoder", feeds)
    for name in expected:
        np.testing.assert_allclose(answer[name], expected[name], rtol=1e-4, atol=1e-4)


def test_no_boxes_never_reach_the_graph(server: EmbeddedServer) -> None:
    message = refused(server, "sam2_mask_decoder", {**maps(), "boxes": boxes(0)})
    assert message == "boxes: is empty"


@pytest.mark.parametrize("model", ENCODERS)
def test_a_wrong_shape_is_the_callers_mistake(server: EmbeddedServer, model: str) -> None:
    assert "pixels" in refused(server, model, {"pixels": np.zeros((1, 3, 7, 7), np.uint8)})
    assert "batch" in refused(server, model, {"pixels": pixels(model, 9)})


@pytest.mark.parametrize("model", ENCODERS)
def test_normalised_values_are_not_taken_for_pixels(server: EmbeddedServer, model: str) -> None:
    spec = ENCODERS[model]
    values = np.zeros((1, 3, spec.height, spec.width), np.float32)
    message = refused(server, model, {"pixels": values})
    assert "pixels" in message
    assert "UINT8" in message


def test_a_missing_input_is_named(server: EmbeddedServer) -> None:
    assert "boxes" in refused(server, "sam2_mask_decoder", maps())


def test_a_bad_request_does_not_hurt_those_beside_it(server: EmbeddedServer) -> None:
    features = maps()
    expected = direct("sam2_mask_decoder", {**features, "boxes": boxes(3)})

    def ask(count: int) -> dict[str, NDArray[Any]] | str:
        try:
            return infer(server.grpc_address, "sam2_mask_decoder", {**features, "boxes": boxes(count)})
        except InferenceServerException as error:
            return str(error.status())

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, [3, 0] * 12))
    assert answers[1::2] == ["StatusCode.INVALID_ARGUMENT"] * 12
    for answer in answers[::2]:
        assert isinstance(answer, dict)
        np.testing.assert_allclose(answer["mask_logits"], expected["mask_logits"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "raw",
    [b"", b"\1", b"\5\0\0\0ab", b"\xff\xff\xff\x7fab", b"\2\0\0\0abXX", b"\1\0\0\0a\1\0\0\0b"],
    ids=["nothing", "half a length", "too short", "huge length", "too long", "two elements"],
)
def test_malformed_bytes_are_the_callers_mistake(server: EmbeddedServer, raw: bytes) -> None:
    request = service_pb2.ModelInferRequest(model_name="segment")
    tensor = request.inputs.add()
    tensor.name, tensor.datatype = "image", "BYTES"
    tensor.shape.append(1)
    request.raw_input_contents.append(raw)
    with plain_grpc.insecure_channel(server.grpc_address) as channel:
        with pytest.raises(plain_grpc.RpcError) as caught:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=30)
        assert caught.value.code() == plain_grpc.StatusCode.INVALID_ARGUMENT
