"""A throw-away head that teaches the vision tower: what and where, asked of every image token.

The decoder learns to look at the picture only once the image tokens say something, so the tower is trained
with this head first. It is not part of the checkpoint.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from florence2_sam2.training.captions import BINS
from florence2_sam2.training.florence2 import GRID, WIDTH
from florence2_sam2.training.scenes import Scene
from florence2_sam2.training.vocabulary import COLOURS, KINDS, TABLE

_KINDS = {kind: i for i, kind in enumerate([*KINDS, TABLE])}
_COLOURS = {colour: i for i, colour in enumerate(COLOURS)}
_NOTHING = len(_KINDS)
IGNORE = -100


@dataclass
class DenseTargets:
    """For G x G cells in a row: kind [B, N], colour [B, N] (-100: none), box [B, N, 4] as fractions of the side.

    `share` [B, N] is what a cell weighs among those of things: the root of 1 over its thing's number of cells, so
    that large things do not say everything.
    """

    kind: torch.Tensor
    colour: torch.Tensor
    box: torch.Tensor
    share: torch.Tensor


def cell_owners(scene: Scene) -> np.ndarray:
    """The index of each cell's thing, int [N], -1 where there is none.

    Each cell belongs to the thing that covers most of it; each thing has at least the cell it covers most.
    """
    cover = np.stack(
        [
            cv2.resize(o.mask.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA)
            for o in scene.objects
        ]
    ).reshape(len(scene.objects), -1)
    is_table = np.array([o.kind == TABLE for o in scene.objects])
    cover[is_table] *= 0.5  # a thing that lies on the table matters more
    owner = np.where(cover.max(0) > 0.22, cover.argmax(0), -1)
    for i in np.flatnonzero(~is_table):
        if not (owner == i).any():
            owner[cover[i].argmax()] = i
    return owner


def cell_targets(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The kind, colour, box and share of each cell's thing (see DenseTargets)."""
    height, width = scene.image.shape[:2]
    owner = cell_owners(scene)
    kinds = np.array([_KINDS[o.kind] for o in scene.objects] + [_NOTHING])
    colours = np.array([_COLOURS.get(o.colour, IGNORE) for o in scene.objects] + [IGNORE])
    boxes = np.stack([o.box for o in scene.objects] + [np.zeros(4, np.float32)])
    boxes = boxes / np.array([width, height, width, height], np.float32)
    cells = np.bincount(owner[owner >= 0], minlength=len(scene.objects))
    shares = np.append(np.maximum(cells, 1), 1) ** -0.5
    return kinds[owner], colours[owner], boxes[owner], shares[owner]


def cell_counts(scene: Scene) -> torch.Tensor:
    """How many things of its phrase there are, less one, at most 2, for each cell's thing, int64 [N]; else -100."""
    phrases = [o.phrase for o in scene.objects]
    several = [min(phrases.count(o.phrase), 3) - 1 if o.kind != TABLE else IGNORE for o in scene.objects]
    return torch.tensor([*several, IGNORE])[cell_owners(scene)]


def stack_targets(scenes: list[Scene]) -> DenseTargets:
    kind, colour, box, share = (np.stack(part) for part in zip(*map(cell_targets, scenes), strict=True))
    return DenseTargets(
        torch.from_numpy(kind),
        torch.from_numpy(colour),
        torch.from_numpy(box.astype(np.float32)),
        torch.from_numpy(share.astype(np.float32)),
    )


def soft_bins(values: torch.Tensor, sigma: float) -> torch.Tensor:
    """Fractions [...] to distributions [..., 1000]: a Gaussian of `sigma` bins around the true place."""
    centres = torch.arange(BINS) + 0.5
    weights = torch.exp(-0.5 * ((centres - values[..., None] * BINS) / sigma) ** 2)
    return weights / weights.sum(-1, keepdim=True)


def divergence(log_predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean Kullback-Leibler divergence of rows; zero when they agree, whatever the target's width."""
    entropy = (target * target.clamp_min(1e-9).log()).sum(-1)
    return (entropy - (target * log_predicted).sum(-1)).mean()


class DenseHead(nn.Module):
    """Kind, colour and box of the thing at each image token; boxes also through the location embeddings.

    And how many of its like there are, asked of the encoder's output (`count_loss`): it is the first place
    where an image token can know the others. Who writes "a bird" where there are three must find other names
    for the rest.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU())
        self.kind = nn.Linear(WIDTH, len(_KINDS) + 1)
        self.colour = nn.Linear(WIDTH, len(_COLOURS))
        self.several = nn.Linear(WIDTH, 3)
        self.offset = nn.Linear(WIDTH, 4)
        self.query = nn.Linear(WIDTH, 4 * WIDTH)
        centre = (torch.arange(GRID) + 0.5) / GRID
        rows, columns = torch.meshgrid(centre, centre, indexing="ij")
        self.register_buffer("centres", torch.stack([columns, rows] * 2, -1).reshape(-1, 4), persistent=False)

    def loss(
        self,
        features: torch.Tensor,
        targets: DenseTargets,
        locations: torch.Tensor,
        sigma: float,
        boxes_kept: int = 160,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss and measurements for image tokens [B, 1 + N, D] and location embeddings [1000, D].

        The location part is the costly one: it looks at `boxes_kept` random cells of things.
        """
        tokens = features[:, 1:]
        hidden = self.hidden(tokens)
        kind_logits = self.kind(hidden).flatten(0, 1)
        kind, thing = targets.kind.flatten(), (targets.kind < _KINDS[TABLE]).flatten()
        share = targets.share.flatten()[thing]
        kind_losses = F.cross_entropy(kind_logits, kind, reduction="none")
        kind_loss = (kind_losses[thing] * share).sum() / share.sum() + 0.5 * kind_losses[~thing].mean()
        colour_logits = self.colour(hidden).flatten(0, 1)
        colour_losses = F.cross_entropy(
            colour_logits[thing], targets.colour.flatten()[thing], reduction="none"
        )
        colour_loss = (colour_losses * share).sum() / share.sum()
        covered = (targets.kind != _NOTHING).flatten()
        predicted = (self.offset(hidden) + self.centres).flatten(0, 1)
        box = targets.box.flatten(0, 1)
        weight = 1.0 + 3.0 * thing[covered].float()
        box_loss = (
            F.smooth_l1_loss(predicted[covered], box[covered], beta=0.02, reduction="none").mean(1) * weight
        ).mean()
        cells = thing.nonzero()[:, 0]
        cells = cells[torch.randperm(len(cells))[:boxes_kept]]
        queries = self.query(tokens.flatten(0, 1)[cells]).view(-1, 4, WIDTH)
        log_bins = F.log_softmax(queries @ locations.T, -1)
        bin_loss = divergence(log_bins, soft_bins(box[cells], sigma))
        with torch.no_grad():
            facts = {
                "kind_right": ((kind_logits.argmax(-1) == kind)[thing] * share).sum() / share.sum(),
                "colour_right": (colour_logits.argmax(-1) == targets.colour.flatten())[thing].float().mean(),
                "box_error": (predicted[thing] - box[thing]).abs().mean() * BINS,
            }
        return kind_loss + 0.5 * colour_loss + 4 * box_loss + 0.5 * bin_loss, facts

    def count_loss(
        self, encoded: torch.Tensor, counts: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss and measurements for the encoder's output at the image tokens [B, 1 + N, D] and `cell_counts` [B, N].

        Each number weighs the same, however many cells have it.
        """
        logits, truth = self.several(encoded[:, 1:]).flatten(0, 1), counts.flatten()
        losses = F.cross_entropy(logits, truth, reduction="none", ignore_index=IGNORE)
        right = logits.argmax(-1) == truth
        present = [truth == n for n in range(3) if (truth == n).any()]
        with torch.no_grad():
            facts = {"several_right": torch.stack([right[p].float().mean() for p in present]).mean()}
        return torch.stack([losses[p].mean() for p in present]).mean(), facts
