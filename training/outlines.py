"""All outlines by kind. `OUTLINES["key"].draw(rng, 0)` gives the parts of the first form of a key."""

from dataclasses import dataclass

from florence2_sam2.training.geometry import Outline
from florence2_sam2.training.outlines_animals import ANIMALS
from florence2_sam2.training.outlines_household import HOUSEHOLD
from florence2_sam2.training.outlines_outdoors import OUTDOORS
from florence2_sam2.training.outlines_plants import PLANTS
from florence2_sam2.training.outlines_shapes import SHAPES


@dataclass(frozen=True)
class Forms:
    """How to draw one kind, and in how many distinct forms."""

    draw: Outline
    count: int = 3


OUTLINES: dict[str, Forms] = {
    kind: Forms(draw) for kind, draw in (PLANTS | ANIMALS | HOUSEHOLD | OUTDOORS | SHAPES).items()
}
