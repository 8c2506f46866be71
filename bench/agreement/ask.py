"""What one export writes about scenes: Florence-2 in this process, without a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from florence2_sam2.server import manifest
from florence2_sam2.server.florence2 import Florence2, Florence2Answer
from florence2_sam2.server.florence2_options import Florence2Options
from florence2_sam2.server.onnx_session import CPU, open_session
from florence2_sam2.server.preprocess import to_pixels
from florence2_sam2.training.scenes import Scene

CAPTION, GROUNDING = "<MORE_DETAILED_CAPTION>", "<CAPTION_TO_PHRASE_GROUNDING>"
# Boxes in the thousandths that the model writes, so that no picture's pixels round a difference away.
SIDE = (1000, 1000)

Features = Sequence[NDArray[np.float32]]


@dataclass(frozen=True)
class Written:
    """About one scene: the caption's token ids; the true caption's grounding as token ids, labels and boxes [N, 4]."""

    caption: tuple[int, ...]
    grounding: tuple[int, ...]
    labels: tuple[str, ...]
    boxes: NDArray[np.int64]


def image_features(repository: Path, scenes: Sequence[Scene]) -> Features:
    """What the export's vision encoder makes of the scenes, each FP32 [T, D]."""
    image = manifest.read_florence2(repository).image
    session = open_session(repository / "florence2_vision_encoder" / "1" / "model.onnx", providers=[CPU])
    return [session.run(None, {"pixels": to_pixels(scene.image, image)})[0][0] for scene in scenes]


def written(repository: Path, scenes: Sequence[Scene], features: Features, beams: int) -> list[Written]:
    """Both sides are grounded on the true caption, so that one other word does not move all boxes."""
    options = Florence2Options(num_beams=beams)
    with _florence2(repository, max_waiting=2 * len(scenes)) as florence2:
        pairs = [
            (
                florence2.submit(seen, CAPTION, options=options),
                florence2.submit(seen, GROUNDING, scene.caption, SIDE, options),
            )
            for scene, seen in zip(scenes, features, strict=True)
        ]
        return [_written(caption.result(), grounding.result()) for caption, grounding in pairs]


def _written(caption: Florence2Answer, grounding: Florence2Answer) -> Written:
    usable = [region for region in grounding.regions if region.dropped is None]
    return Written(
        tuple(caption.token_ids.tolist()),
        tuple(grounding.token_ids.tolist()),
        tuple(region.label for region in usable),
        np.array([region.box for region in usable], np.int64).reshape(-1, 4),
    )


@contextmanager
def _florence2(repository: Path, max_waiting: int) -> Iterator[Florence2]:
    folder = manifest.version_folder(repository, "florence2")
    florence2 = Florence2(folder, manifest.read_florence2(repository), max_waiting=max_waiting)
    try:
        yield florence2
    finally:
        florence2.close()
