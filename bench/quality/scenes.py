"""The scenes that are asked about: none of them was ever trained on, and each can be drawn again by its number."""

from __future__ import annotations

import numpy as np

from florence2_sam2.training.scenes import Scene, draw_scene

# Training draws from default_rng(0), (1), …; the end-to-end tests from 10 000 on, training's evaluation from 10**6.
# Here every scene has a generator of its own, seeded with four words; the last one keeps them apart from all
# generators seeded with one number, whatever the others are (numpy fills missing words with zeros).
SEED = 7_000_000
_LAST_WORD = 1
ASPECTS = ((320, 320), (320, 240), (240, 320), (320, 280))  # width, height in pixels


def draw(number: int, held_out: bool = False, seed: int = SEED, size: tuple[int, int] | None = None) -> Scene:
    """Scene `number`: the same whatever else is drawn. `held_out`: around kind-colour pairs kept out of training.

    `size`: width and height in pixels in place of one of ASPECTS.
    """
    rng = np.random.default_rng((seed, int(held_out), number, _LAST_WORD))
    return draw_scene(rng, *(size or ASPECTS[number % len(ASPECTS)]), held_out=held_out)
