"""The picture of `scripts/demo` and of the README: `python -m florence2_sam2.training.demo docs/pictures/demo.jpg`.

Its seed lies far from those of the training's and of the evaluation's scenes.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from florence2_sam2.training.scenes import Scene, draw_scene

SEED = 9_000_064
WIDTH, HEIGHT = 640, 480


def demo_scene(seed: int = SEED) -> Scene:
    """The scene, with the truth about it."""
    return draw_scene(np.random.default_rng(seed), WIDTH, HEIGHT)


def main(path: Path) -> None:
    Image.fromarray(demo_scene().image).save(path, quality=92)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
