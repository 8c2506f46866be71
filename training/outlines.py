"""All outlines by kind. `OUTLINES["key"].draw(rng, 0)` gives the parts of the first form of a key."""

from dataclasses import dataclass

from florence2_sam2.training.outlines_nature import NATURE, Outline
from florence2_sam2.training.outlines_things import THINGS


@dataclass(frozen=True)
class Forms:
    """How to draw one kind, and in how many distinct forms."""

    draw: Outline
    count: int = 3


OUTLINES: dict[str, Forms] = {kind: Forms(draw) for kind, draw in (NATURE | THINGS).items()}
