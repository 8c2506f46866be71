"""The pictures that the small Florence-2 learns from."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np

from florence2_sam2.training.florence2 import SIDE
from florence2_sam2.training.scenes import Scene, draw_scene, mirrored, squeezed

SEVERAL = 0.35  # of the phrases stand for two or three things: more than elsewhere, since counting is hard
MOSAICS = 0.5  # of the first phase's pictures


def draw(rng: np.random.Generator) -> Scene:
    """A scene for the model's square: a third of them drawn so, the others of another size and aspect and squeezed.

    Pictures that are asked about may be smaller than the square, and arrive a little blurred.
    """
    if rng.random() < 1 / 3:
        return draw_scene(rng, SIDE, several=SEVERAL)
    stretch = float(np.exp(rng.uniform(-0.2, 0.2)))
    side = SIDE * float(rng.uniform(0.65, 1.6))
    return squeezed(draw_scene(rng, round(side * stretch), round(side / stretch), several=SEVERAL), SIDE)


def mosaic(parts: list[Scene]) -> Scene:
    """Four scenes of half the side in one square: four times as many things to name for the same pixels."""
    half = SIDE // 2
    image = np.empty((SIDE, SIDE, 3), np.uint8)
    objects = []
    for (top, left), part in zip(product((0, half), repeat=2), parts, strict=True):
        image[top : top + half, left : left + half] = part.image
        for thing in part.objects:
            mask = np.zeros((SIDE, SIDE), bool)
            mask[top : top + half, left : left + half] = thing.mask
            box = thing.box + np.array([left, top, left, top], np.float32)
            objects.append(replace(thing, box=box, mask=mask))
    return Scene(image, objects, "", "")


class Diet:
    """Pictures for the vision tower alone: half of them mosaics, and most parts of these seen before.

    Drawing costs a fifth of a step. A part returns a few times, mirrored or not, beside other parts.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.parts: deque[Scene] = deque(maxlen=600)
        self.wholes: deque[Scene] = deque(maxlen=600)

    def _one(self, seen: deque[Scene], fresh: Callable[[], Scene], share: float) -> Scene:
        if len(seen) < 64 or self.rng.random() < share:
            seen.append(fresh())
            return seen[-1]
        scene = seen[int(self.rng.integers(len(seen)))]
        return mirrored(scene) if self.rng.random() < 0.5 else scene

    def draw(self) -> Scene:
        if self.rng.random() < MOSAICS:
            return mosaic(
                [self._one(self.parts, lambda: draw_scene(self.rng, SIDE // 2), 0.3) for _ in range(4)]
            )
        return self._one(self.wholes, lambda: draw(self.rng), 0.4)
