"""The pipeline's models as the other models of the same Triton server."""

from __future__ import annotations

import json
import secrets
import sys
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from florence2_sam2.server import florence2_ahead, manifest
from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.florence2_ahead import GROUNDING
from florence2_sam2.server.preprocess import to_model_frame, to_pixels
from florence2_sam2.server.segment.finding import CAPTION
from florence2_sam2.server.segment.models import (
    Features,
    Floats,
    Generated,
    GenerationOptions,
    Pixels,
    Region,
    Run,
    Sam2Maps,
    Tell,
    Written,
    largest,
)
from florence2_sam2.server.triton import bls
from florence2_sam2.server.triton.tensors import bytes_array, owned

if TYPE_CHECKING:
    from triton_python_backend_utils import Tensor

MAPS = ("image_embeddings", "high_res_features_0", "high_res_features_1")
# Encoders' answers that wait in shared memory to be handed on; Docker gives a container 64 MB of it.
ANSWERS_KEPT = 2


class TritonModels:
    """Implements `Models` through BLS calls; resizing runs in worker threads."""

    def __init__(
        self,
        repository: Path,
        run: Run,
        is_alone: Callable[[], bool] = lambda: False,
        features_on_gpu: bool = False,
    ) -> None:
        """Read the manifests of the two checkpoints.

        Args:
            is_alone: whether one call only is under way.
            features_on_gpu: whether features stay in a GPU's memory, for Florence-2's decoder and SAM2's mask decoder.

        Raises:
            ManifestError: a half of the repository is missing or damaged.
        """
        self._run, self._is_alone, self._features_on_gpu = run, is_alone, features_on_gpu
        self._answers = _Answers()
        self._captioned = _Captioned()
        self._florence2 = manifest.read_florence2(repository)
        self._sam2 = manifest.read_sam2(repository)
        self.identities: dict[str, dict[str, Any]] = {
            "florence2": dict(self._florence2.identity()),
            "sam2": dict(self._sam2.identity()),
        }
        self.input_size = largest(self._florence2.image, self._sam2.image)

    def close(self) -> None:
        """Give shared memory back, after the last call: a process that ends with some of it crashes (24.10)."""
        self._answers.clear()

    async def image_features(self, picture: Pixels) -> Features:
        pixels = await self._run(to_pixels, picture, self._florence2.image)
        answer = await bls.call_for_tensors(
            "florence2_vision_encoder",
            {"pixels": pixels},
            ["image_features"],
            alone=self._is_alone(),
            on_gpu=self._features_on_gpu,
        )
        return _on_gpu(answer) or owned(answer["image_features"].as_numpy())

    async def generate(
        self,
        features: Features,
        size: tuple[int, int],
        task: str,
        text: str,
        options: GenerationOptions,
        tell: Tell,
    ) -> Generated:
        wanted = {
            "num_beams": options.num_beams,
            "max_new_tokens": options.max_new_tokens,
            "phrases": options.phrases if task == GROUNDING else None,
            "priority": options.priority,
        }
        inputs = {
            "image_features": features.tensors["image_features"] if isinstance(features, OnGpu) else features,
            "image_size": np.array(size, np.int32),
            "task": bytes_array([task.encode()]),
            "text": bytes_array([text.encode()]),
            "options": bytes_array([json.dumps({k: v for k, v in wanted.items() if v is not None}).encode()]),
        }
        alone = self._is_alone()
        if task == GROUNDING:
            mark = self._captioned.mark_of(features, text)
        else:
            mark = secrets.token_hex(16) if alone and task == CAPTION else None
        try:
            answer = await bls.call_with_line(
                "florence2",
                inputs,
                ["text", "regions", "info"],
                lambda event: tell(Written(**event)),
                tell.when_heard,
                alone=alone,
                parameters={} if mark is None else {florence2_ahead.PARAMETER: mark},
            )
        except InvalidRequest as refused:
            if refused.field == "text":
                raise InvalidRequest("caption", refused.problem) from None
            raise
        written = answer["text"][0].decode()
        if mark is not None and task == CAPTION:
            self._captioned.keep(features, written, mark)
        regions = json.loads(answer["regions"][0])
        return Generated(
            text=written,
            regions=tuple(Region.from_json(row) for row in regions if "box" in row),
            warnings=tuple(_of_caption(text) for text in json.loads(answer["info"][0])["warnings"]),
        )

    async def sam2_pixels(self, picture: Pixels) -> Pixels:
        return await self._run(to_pixels, picture, self._sam2.image)

    async def sam2_features(self, pixels: Pixels) -> Features:
        answer = await bls.call_for_tensors(
            "sam2_image_encoder",
            {"pixels": pixels},
            MAPS,
            alone=self._is_alone(),
            on_gpu=self._features_on_gpu,
        )
        if on_gpu := _on_gpu(answer):
            return on_gpu
        features = Sam2Maps(*(owned(answer[name].as_numpy()) for name in MAPS))
        self._answers.keep(features, answer)
        return features

    async def masks(self, features: Features, boxes: Floats, size: tuple[int, int]) -> tuple[Floats, Floats]:
        maps: bls.Inputs
        if isinstance(features, OnGpu):
            maps = features.tensors
        else:
            maps = self._answers.take(features) or {name: getattr(features, name) for name in MAPS}
        inputs = {**maps, "boxes": to_model_frame(boxes, *size, self._sam2.image)}
        answer = await bls.call(
            "sam2_mask_decoder", inputs, ["mask_logits", "scores"], alone=self._is_alone()
        )
        return answer["mask_logits"], answer["scores"]


class OnGpu:
    """Features where their encoder left them in a GPU's memory, for as long as a call needs them.

    The memory for what pictures cost before is the host's, and takes none of them: to encode a picture again costs a
    GPU less than to bring SAM2's maps there and back.
    """

    nbytes = sys.maxsize

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors


def _on_gpu(answer: Mapping[str, Tensor]) -> OnGpu | None:
    """Features, if their encoder left them in a GPU's memory."""
    return None if all(tensor.is_cpu() for tensor in answer.values()) else OnGpu(answer)


class _Answers:
    """The last answers of SAM2's encoder where it left them, for the mask decoder's first call, mostly the next one.

    Further calls with the same features hand over a copy: shared memory is scarce, and the features may be kept long.
    """

    def __init__(self) -> None:
        self._kept: deque[tuple[Features, dict[str, Tensor]]] = deque(maxlen=ANSWERS_KEPT)

    def keep(self, features: Features, tensors: dict[str, Tensor]) -> None:
        self._kept.append((features, tensors))

    def take(self, features: Features) -> dict[str, Tensor] | None:
        """The tensors of these features, once."""
        for index, (whose, tensors) in enumerate(self._kept):
            if whose is features:
                del self._kept[index]
                return tensors
        return None

    def clear(self) -> None:
        self._kept.clear()


class _Captioned:
    """The last caption of a call that was alone: `florence2` grounds it already, see `florence2_ahead.py`."""

    def __init__(self) -> None:
        self._last: tuple[weakref.ref[Any], str, str] | None = None

    def keep(self, features: Features, caption: str, mark: str) -> None:
        self._last = weakref.ref(features), caption, mark

    def mark_of(self, features: Features, caption: str) -> str | None:
        """The mark of that caption of these features, once."""
        if self._last is None or self._last[0]() is not features or self._last[1] != caption:
            return None
        mark, self._last = self._last[2], None
        return mark


def _of_caption(warning: str) -> str:
    """What `florence2` says of its input `text`, which callers of `segment` know as the caption."""
    return "caption: " + warning.removeprefix("text: ") if warning.startswith("text: ") else warning
