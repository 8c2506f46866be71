"""Train the small SAM2 on drawn scenes: `python -m florence2_sam2.training.train_sam2 --minutes 60 --output DIR`.

Three things make it learn within an hour of one core:

1. A minute of warm-up of the decoder alone, with noise for the picture and "fill the box" for the target.
   Without it the box prompt is never used and every mask comes out the same.
2. Class-balanced cross-entropy at first, annealed to focal and dice: focal alone makes all masks empty.
3. Small pictures first, larger ones later. Weights do not depend on the side. The mean of the last ones is kept.

Once nearly everything is outlined well, `--hard N` goes on with what is not: of N scenes the one that is hardest to
outline is learnt from (see hard.py), its hard things twice, and a poor mask counts more than a good one.

All four mask tokens are trained, token 0 on every box and the best of the others, because at inference the
model may swap token 0 for one of them. The IoU head regresses the true IoU of each.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import Sam2Model

from florence2_sam2.training.average import WeightAverage
from florence2_sam2.training.hard import hardness
from florence2_sam2.training.images import to_pixels
from florence2_sam2.training.muon import Optimisers, hidden_matrices
from florence2_sam2.training.progress import Clock, Log, learning_rate, load_state, save_state
from florence2_sam2.training.sam2 import HIDDEN, every_mask, image_features, new_model, side_of, with_side
from florence2_sam2.training.scenes import Scene, draw_scene, squeezed

PROMPTS = 8  # boxes for each picture: nearly all of its things, since the encoder is what costs
SEVERAL = (
    0.35  # of the kinds in a picture come in twos and threes: neighbours of one colour are hard to tell apart
)
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def jittered(rng: np.random.Generator, box: np.ndarray, side: int) -> np.ndarray:
    """A box like a detector's: a third exact, the others off by a few percent of their size. [4] pixels."""
    if rng.random() < 0.33:
        return box
    extent = np.tile(box[2:] - box[:2], 2)
    moved = box + rng.normal(0, 0.05, 4) * extent + rng.normal(0, 0.004 * side, 4)
    moved = np.clip(moved, 0, side)
    return moved if (moved[2:] - moved[:2]).min() > 0.02 * side else box


def scene_of(rng: np.random.Generator, side: int) -> Scene:
    """A square scene. Most pictures that are asked about have other sizes, and are a little blurred by that."""
    return squeezed(draw_scene(rng, round(side * rng.uniform(0.4, 1.15)), several=SEVERAL), side)


def hard_scene(rng: np.random.Generator, side: int, choice: int) -> tuple[Scene, np.ndarray]:
    """The hardest to outline of `choice` scenes, and the order [P] to ask for its things in: hard ones twice."""
    scenes = [scene_of(rng, side) for _ in range(choice)]
    hard = [hardness(scene) for scene in scenes]
    best = int(np.argmax([each.sum() for each in hard]))
    order = np.argsort(-hard[best], kind="stable")
    return scenes[best], np.concatenate([rng.permutation(len(order)), order])[:PROMPTS]


def scene_batch(rng: np.random.Generator, count: int, side: int, hard: int = 1) -> Batch:
    """Pixels [B, 3, S, S], boxes [B, P, 4] in pixels and masks uint8 [B, P, S, S] of random things.

    With `hard` above 1 each scene is the hardest of so many.
    """
    images, boxes, masks = [], [], []
    for _ in range(count):
        if hard > 1:
            scene, order = hard_scene(rng, side, hard)
        else:
            scene = scene_of(rng, side)
            order = rng.permutation(len(scene.objects))
        chosen = [scene.objects[order[p % len(order)]] for p in range(PROMPTS)]
        images.append(scene.image)
        boxes.append([jittered(rng, thing.box, side) for thing in chosen])
        masks.append([thing.mask for thing in chosen])
    return (
        to_pixels(images),
        torch.from_numpy(np.array(boxes, np.float32)),
        torch.from_numpy(np.array(masks, np.uint8)),
    )


def filled_boxes(
    rng: np.random.Generator, count: int, side: int
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """The warm-up's task: noise for features, random boxes [B, P, 4], and masks that fill them."""
    extent, centre = rng.uniform(0.1, 0.6, (count, PROMPTS, 2)), rng.uniform(0, 1, (count, PROMPTS, 2))
    low = np.clip(centre - extent / 2, 0, 0.95)
    high = np.clip(centre + extent / 2, low + 0.04, 1)
    boxes = torch.from_numpy(np.concatenate([low, high], -1) * side).float()
    u = torch.arange(side) + 0.5
    inside = [(u > boxes[..., k, None]) & (u < boxes[..., k + 2, None]) for k in (0, 1)]
    masks = (inside[1][..., :, None] & inside[0][..., None, :]).to(torch.uint8)
    widths = ((HIDDEN // 8, 4), (HIDDEN // 4, 8), (HIDDEN, 16))
    return [torch.randn(count, c, side // s, side // s) * 0.5 for c, s in widths], boxes, masks


def compare(logits: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [R, N, h, w] and masks [R, S, S] at a common resolution, twice the logits': [R, N, 2h, 2w] each.

    The truth is the share of each cell that the mask covers. Comparing finer than the logits are makes
    boundaries pass between them, where bilinear upsampling will put them at inference.
    """
    finer = F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)
    truth = F.adaptive_avg_pool2d(masks.float()[:, None], (finer.shape[-2], finer.shape[-1]))
    return finer, truth.expand_as(finer)


@torch.no_grad()
def true_iou(finer: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """IoU [R, N] of the masks that the logits mean."""
    said, true = finer > 0, truth > 0.5
    common, either = (said & true).flatten(2).sum(-1), (said | true).flatten(2).sum(-1)
    return common / either.clamp_min(1)


def mask_loss(finer: torch.Tensor, truth: torch.Tensor, balance: float) -> torch.Tensor:
    """Loss [R, N] of each mask: dice, plus cross-entropy that is class-balanced in share `balance`, else focal."""
    entropy = F.binary_cross_entropy_with_logits(finer, truth, reduction="none")
    likely = torch.sigmoid(finer)
    focal = (entropy * (likely.detach() - truth).abs()).flatten(2).mean(-1)
    area, missing = truth.flatten(2).sum(-1), (1 - truth).flatten(2).sum(-1)
    dice = 1 - (2 * (likely * truth).flatten(2).sum(-1) + 1) / (likely.flatten(2).sum(-1) + area + 1)
    loss = dice + (1 - balance) * 20 * focal
    if balance > 0:
        balanced = (entropy * truth).flatten(2).sum(-1) / area.clamp_min(1)
        balanced = balanced + (entropy * (1 - truth)).flatten(2).sum(-1) / missing.clamp_min(1)
        loss = loss + balance * balanced
    return loss


def focused(loss: torch.Tensor, iou: torch.Tensor, focus: bool) -> torch.Tensor:
    """The mean of losses [R, N]; with `focus` a perfect mask counts 0.4 and one that misses altogether 3.4."""
    return ((0.4 + 3 * (1 - iou)) * loss if focus else loss).mean()


def total_loss(
    model: Sam2Model,
    features: list[torch.Tensor],
    boxes: torch.Tensor,
    masks: torch.Tensor,
    balance: float,
    log: Log,
    focus: bool = False,
) -> torch.Tensor:
    """Token 0 on every box (see `focused`); the other tokens, which serve more rarely, on half of the boxes."""
    logits, scores, objects = (x.flatten(0, 1) for x in every_mask(model, features, boxes))
    some = torch.randperm(len(logits))[: max(1, len(logits) // 2)]
    masks = masks.flatten(0, 1)
    first, first_truth = compare(logits[:, :1], masks)
    others, others_truth = compare(logits[some, 1:], masks[some])
    first_iou, others_iou = true_iou(first, first_truth), true_iou(others, others_truth)
    first_score_error = (scores[:, :1] - first_iou).abs().mean()
    others_score_error = (scores[some, 1:] - others_iou).abs().mean()
    single = focused(mask_loss(first, first_truth, balance), first_iou, focus)
    rest = mask_loss(others, others_truth, balance)
    present = F.binary_cross_entropy_with_logits(objects, torch.ones_like(objects))
    log.add(
        iou=first_iou.mean(),
        best=others_iou.max(-1).values.mean(),
        score_error=first_score_error.detach(),
        loss=single.detach(),
    )
    masks_loss = single + rest.min(-1).values.mean() + 0.1 * rest.mean()
    return masks_loss + first_score_error + 0.5 * others_score_error + 0.02 * present


def optimisers(model: Sam2Model, rate: float) -> Optimisers:
    return Optimisers(model.parameters(), hidden_matrices(model), rate)


def stages(text: str) -> list[tuple[int, float]]:
    """ "128:0.3,256:1" -> [(128, 0.3), (256, 1.0)]: the side of the picture until that fraction of the time."""
    return [(int(side), float(until)) for side, until in (part.split(":") for part in text.split(","))]


def train(options: argparse.Namespace) -> Sam2Model:
    """Train by the clock; continues from `state.pt` in the output folder if there is one."""
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    plan = stages(options.stages)
    state = options.output / "state.pt"
    model, step, elapsed = new_model(plan[0][0]), 0, 0.0
    if options.init:
        model.load_state_dict(Sam2Model.from_pretrained(options.init, dtype=torch.float32).state_dict())
    mean = WeightAverage(model)
    moments = None
    if state.exists():
        facts = load_state(state, {"model": model, "average": mean.averaged}, rng)
        step, elapsed, moments = facts["step"], facts["elapsed"], facts.get("moments")
    model.train()
    clock, log = Clock(options.minutes, elapsed), Log(options.output / "log.jsonl")
    optimizer = optimisers(model, options.rate)
    if moments:
        optimizer.load_state_dict(moments)
    saved, since = clock.elapsed, step
    while clock.fraction < 1:
        side = next(side for side, until in plan if clock.fraction < until)
        if side_of(model) != side:
            model, moments = with_side(model, side), optimizer.state_dict()
            optimizer = optimisers(model, options.rate)
            optimizer.load_state_dict(moments)
            mean.follow(model)
        optimizer.set_rate(learning_rate(options.rate, step - since, mean.for_rate(clock.fraction)))
        count = max(2, round(options.batch * (256 / side) ** 2))
        if clock.elapsed < options.warm_up:
            features, boxes, masks = filled_boxes(rng, 2 * options.batch, side)
        else:
            pixels, boxes, masks = scene_batch(rng, count, side, options.hard)
            features = image_features(model, pixels)
        balance = options.balance * (1 - clock.fraction)
        loss = total_loss(model, features, boxes, masks, balance, log, focus=options.hard > 1)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean.step(clock.fraction)
        step += 1
        if log.due():
            log.write(minutes=clock.elapsed, step=step, side=side)
        if clock.elapsed - saved > options.save_every:
            saved = clock.elapsed
            modules, moments = {"model": model, "average": mean.averaged}, optimizer.state_dict()
            save_state(state, modules, rng, step=step, elapsed=saved, moments=moments)
            export(model, options.output / "checkpoint")
    mean.take_over()
    return model


def export(model: Sam2Model, folder: Path) -> None:
    """An ordinary checkpoint folder in float16."""
    copy = Sam2Model(model.config)
    copy.load_state_dict(model.state_dict())
    copy.half().save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--stages", default="128:0.25,256:0.6,384:1", help="side of the picture until a fraction of the time"
    )
    parser.add_argument("--warm-up", type=float, default=1.0, help="minutes of the decoder alone")
    parser.add_argument(
        "--balance", type=float, default=1.0, help="share of balanced cross-entropy at the start"
    )
    parser.add_argument("--batch", type=int, default=4, help="pictures a step at 256 pixels")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument(
        "--hard",
        type=int,
        default=1,
        help="scenes drawn for each one learnt from, the hardest (default: all)",
    )
    parser.add_argument("--init", default="", help="a checkpoint folder to start from")
    parser.add_argument("--save-every", type=float, default=5, help="minutes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    export(train(options), options.output / "checkpoint")


if __name__ == "__main__":
    main()
