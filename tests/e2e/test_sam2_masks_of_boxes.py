"""The `sam2` ensemble: a picture and boxes in its pixels in, one mask of its size and one score per box out."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from calls import infer, picture, png
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from florence2_sam2.postprocess.masks import upsample_mask
from florence2_sam2.server import manifest
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.manifest import packaged_repository
from florence2_sam2.server.preprocess import to_model_frame, to_pixels
from florence2_sam2.server.sam2_steps import MAX_MASK_BYTES, full_size_masks

pytestmark = pytest.mark.server

REPOSITORY = packaged_repository()
SPEC = manifest.read_sam2(REPOSITORY).image
BOXES = np.array([[16, 12, 48, 36], [0, 0, 64, 48], [20, 20, 24, 30]], np.float32)


def by_hand(pixels: NDArray[np.uint8], boxes: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Masks and scores from the graphs and functions themselves, without Triton."""
    height, width = pixels.shape[:2]
    encoder, decoder = (
        onnxruntime.InferenceSession(str(REPOSITORY / model / "1" / "model.onnx"))
        for model in ("sam2_image_encoder", "sam2_mask_decoder")
    )
    names = [node.name for node in encoder.get_outputs()]
    maps = dict(zip(names, encoder.run(names, {"pixels": to_pixels(pixels, SPEC)}), strict=True))
    frame = to_model_frame(boxes, width, height, SPEC)
    logits, scores = decoder.run(["mask_logits", "scores"], {**maps, "boxes": frame})
    return np.stack([upsample_mask(row, width, height).full() for row in logits]), scores


def ask(server: EmbeddedServer, image: bytes, boxes: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    return infer(server.grpc_address, "sam2", {"image": image, "boxes": boxes})


def refused(server: EmbeddedServer, image: bytes, boxes: NDArray[np.float32]) -> str:
    with pytest.raises(InferenceServerException) as caught:
        ask(server, image, boxes)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT", caught.value
    message = str(caught.value.message())
    assert "/" not in message.replace("in ensemble 'sam2', ", "")
    return message.removeprefix("in ensemble 'sam2', ")


@pytest.mark.parametrize(("width", "height"), [(64, 48), (300, 200), (1, 1), (40, 500)])
@pytest.mark.parametrize("count", [1, 3])
def test_masks_and_scores_are_those_of_the_parts(
    server: EmbeddedServer, width: int, height: int, count: int
) -> None:
    pixels = picture(width, height)
    boxes = BOXES[:count] * np.float32([width / 64, height / 48] * 2)
    answer = ask(server, png(pixels), boxes)
    masks, scores = by_hand(pixels, boxes)
    assert answer["masks"].shape == (count, height, width)
    assert answer["masks"].dtype == np.bool_
    np.testing.assert_allclose(answer["scores"], scores, atol=1e-4)
    # Logits within rounding of zero may fall on either side.
    assert (answer["masks"] != masks).mean() < 1e-3


def test_no_boxes(server: EmbeddedServer) -> None:
    assert refused(server, png(picture()), BOXES[:0]).startswith("boxes: there is none")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_coordinate_that_is_no_number(server: EmbeddedServer, value: float) -> None:
    boxes = BOXES.copy()
    boxes[1, 2] = value
    assert refused(server, png(picture()), boxes) == "boxes: box 1 has a coordinate that is no finite number"


def test_too_many_boxes(server: EmbeddedServer) -> None:
    assert "at most 1000" in refused(server, png(picture()), np.repeat(BOXES, 334, axis=0))


def test_boxes_of_another_shape(server: EmbeddedServer) -> None:
    assert "boxes" in refused(server, png(picture()), BOXES[:, :3].copy())
    assert "boxes" in refused(server, png(picture()), BOXES[0])


@pytest.mark.parametrize("data", [b"", b"no picture", png(picture())[:200]], ids=["empty", "text", "cut"])
def test_no_picture(server: EmbeddedServer, data: bytes) -> None:
    assert refused(server, data, BOXES).startswith("image: ")


def test_masks_too_large_for_one_answer(server: EmbeddedServer) -> None:
    count = MAX_MASK_BYTES // (2500 * 2000) + 1
    boxes = np.repeat(BOXES[:1], count, axis=0)
    flat = np.zeros((2000, 2500, 3), np.uint8)
    assert refused(server, png(flat), boxes).startswith(f"boxes: {count} masks of 2500×2000 are too large")


def test_odd_boxes_are_answered(server: EmbeddedServer) -> None:
    odd = np.array([[10, 10, 10, 10], [40, 30, 10, 5], [-50, -50, -10, -10], [0, 0, 1e6, 1e6]], np.float32)
    answer = ask(server, png(picture()), odd)
    assert answer["masks"].shape == (4, 48, 64)
    assert np.isfinite(answer["scores"]).all()


def test_masks_keep_what_the_logits_say() -> None:
    logits = np.full((2, 8, 8), -1, np.float32)
    logits[0, :4] = 1
    masks = full_size_masks(logits, 16, 24)
    assert masks.shape == (2, 24, 16)
    assert masks[0, :10].all()
    assert not masks[0, 14:].any()
    assert not masks[1].any()
