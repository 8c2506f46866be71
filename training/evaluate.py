"""Measure small checkpoints on drawn scenes they have not seen.

    python -m florence2_sam2.training.evaluate --florence2 DIR --sam2 DIR --scenes 200 --beams 1 3

The pictures are drawn at 320 pixels in several aspects and go through the checkpoints' own processors, as in
serving. Seeds start far from those of training. A thing is *found* when a box with its label overlaps its true
box with an IoU above 0.5, boxes and things matched one to one. A label is right when it names kind and colour,
whatever number or size it says (see scoring.py).
"""

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import Florence2ForConditionalGeneration, Florence2Processor, Sam2Model

from florence2_sam2.postprocess import box_iou_matrix
from florence2_sam2.training.captions import CAPTION_PROMPT, GROUNDING_PROMPT, Mention, parse_answer
from florence2_sam2.training.images import to_pixels
from florence2_sam2.training.sam2 import side_of
from florence2_sam2.training.scenes import Scene, draw_scene
from florence2_sam2.training.scoring import BOX_IOU, matched, read_phrase, size_class
from florence2_sam2.training.statistics import Estimate, mean, share

SEED = 10**6
ASPECTS = ((320, 320), (320, 240), (240, 320), (320, 280))


def unseen_scenes(count: int, held_out: bool = False, seed: int = SEED) -> list[Scene]:
    """Scenes of several aspects; with `held_out`, around kind-colour pairs that training never shows."""
    rng = np.random.default_rng(seed + held_out)
    return [draw_scene(rng, *ASPECTS[i % len(ASPECTS)], held_out=held_out) for i in range(count)]


def matched_iou(truth: Mention, said: list[Mention]) -> list[float]:
    """For each true box of the phrase the IoU of the said box that is matched to it, 0 where there is none."""
    pair = read_phrase(truth.phrase)
    boxes = [m.boxes for m in said if read_phrase(m.phrase) == pair]
    overlap = box_iou_matrix(truth.boxes, np.concatenate([np.zeros((0, 4)), *boxes]))
    return list(matched(overlap, overlap > 0))


def of_those_said(truth: list[Mention], said: list[Mention]) -> list[bool]:
    """For each said box whether it is the box of a thing with that label, one to one."""
    right = []
    for pair in {read_phrase(m.phrase) for m in said}:
        boxes = np.concatenate([m.boxes for m in said if read_phrase(m.phrase) == pair])
        hits = [
            sum(iou > BOX_IOU for iou in matched_iou(m, said)) for m in truth if read_phrase(m.phrase) == pair
        ]
        right += [i < sum(hits) for i in range(len(boxes))]
    return right


class Florence2:
    """A checkpoint that answers prompts about pictures."""

    def __init__(self, folder: Path, beams: int) -> None:
        self.model = Florence2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self.processor = Florence2Processor.from_pretrained(folder)
        self.beams = beams

    @torch.no_grad()
    def ask(self, scenes: list[Scene], prompts: list[str]) -> list[str]:
        """The answers, special tokens but locations removed."""
        tokenizer = self.processor.tokenizer
        image_tokens = "<image>" * self.processor.image_processor.image_seq_length
        texts = [f"{image_tokens}<s>{p}</s>" for p in prompts]
        encoded = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
        pictures = [Image.fromarray(s.image) for s in scenes]
        pixels = self.processor.image_processor(pictures, return_tensors="pt").pixel_values
        answers = self.model.generate(
            **{k: encoded[k] for k in ("input_ids", "attention_mask")},
            pixel_values=pixels,
            num_beams=self.beams,
            early_stopping=self.beams > 1,
        )
        texts = tokenizer.batch_decode(answers, skip_special_tokens=False)
        return [t.replace("<s>", "").replace("</s>", "").replace("<pad>", "") for t in texts]


@dataclass
class Grounding:
    """Tallies of found things and of the overlaps of those whose phrase was said."""

    found: list[bool] = field(default_factory=list)
    overlaps: list[float] = field(default_factory=list)
    by_kind: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    by_size: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))

    def add(self, truth: list[Mention], said: list[Mention]) -> None:
        for mention in truth:
            for box, iou in zip(mention.boxes, matched_iou(mention, said), strict=True):
                self.found.append(iou > BOX_IOU)
                self.by_kind[mention.kind].append(iou > BOX_IOU)
                self.by_size[size_class(box, 1, 1)].append(iou > BOX_IOU)
                if iou > BOX_IOU:
                    self.overlaps.append(iou)


def evaluate_florence2(florence2: Florence2, scenes: list[Scene], batch: int = 8) -> dict[str, Any]:
    """Recall of phrases in the model's own caption, of grounding the true caption, and of both in a row."""
    true_caption, own_caption = Grounding(), Grounding()
    told: list[bool] = []
    background: list[bool] = []
    there: list[bool] = []
    for start in range(0, len(scenes), batch):
        part = scenes[start : start + batch]
        captions = florence2.ask(part, [CAPTION_PROMPT] * len(part))
        grounded = florence2.ask(part, [GROUNDING_PROMPT + s.caption for s in part])
        chained = florence2.ask(part, [GROUNDING_PROMPT + c for c in captions])
        for scene, caption, answer, own in zip(part, captions, grounded, chained, strict=True):
            mentions = scene.mentions()
            told += [m.phrase in caption for m in mentions]
            background.append(scene.background in caption)
            true_caption.add(mentions, parse_answer(answer))
            own_caption.add(mentions, parse_answer(own))
            there += of_those_said(mentions, parse_answer(own))
    return {
        "phrases in own caption": share(told),
        "background in own caption": share(background),
        "grounding recall": share(true_caption.found),
        "IoU of found boxes": mean(true_caption.overlaps),
        "own caption: found": share(own_caption.found),
        "own caption: of what is said, there": share(there),
        "by kind": {k: share(v) for k, v in sorted(true_caption.by_kind.items())},
        "by size": {k: share(v) for k, v in sorted(true_caption.by_size.items())},
    }


@torch.no_grad()
def evaluate_sam2(model: Sam2Model, scenes: list[Scene]) -> dict[str, Any]:
    """Mask IoU and score error for the true boxes, one mask a box, at the picture's own resolution."""
    side = side_of(model)
    overlaps, errors = [], []
    by_kind: dict[str, list[float]] = defaultdict(list)
    by_size: dict[str, list[float]] = defaultdict(list)
    for scene in scenes:
        height, width = scene.image.shape[:2]
        picture = Image.fromarray(scene.image).resize((side, side), Image.Resampling.BILINEAR)
        boxes = np.stack([o.box for o in scene.objects])
        fractions = boxes / np.array([width, height] * 2, np.float32)
        out = model(
            pixel_values=to_pixels([np.asarray(picture)]),
            input_boxes=torch.from_numpy(fractions * side)[None],
            multimask_output=False,
        )
        logits = F.interpolate(out.pred_masks[0], size=(height, width), mode="bilinear", align_corners=False)
        for thing, box, mask, score in zip(
            scene.objects, fractions, logits[:, 0] > 0, out.iou_scores[0, :, 0], strict=True
        ):
            truth = torch.from_numpy(thing.mask)
            iou = float((mask & truth).sum() / (mask | truth).sum().clamp_min(1))
            overlaps.append(iou)
            errors.append(abs(float(score) - iou))
            by_kind[thing.kind].append(iou)
            by_size[size_class(box, 1, 1)].append(iou)
    return {
        "mask IoU": mean(overlaps),
        "masks above 0.9": share([v > 0.9 for v in overlaps]),
        "|score - true IoU|": mean(errors),
        "by kind": {k: mean(v) for k, v in sorted(by_kind.items())},
        "by size": {k: mean(v) for k, v in sorted(by_size.items())},
    }


def table(title: str, results: dict[str, Any]) -> str:
    """A Markdown table; of the kinds the three worst are shown."""
    lines = [f"\n**{title}**\n", "| measure | value (95 % interval) |", "|---|---|"]
    for name, value in results.items():
        if isinstance(value, Estimate):
            lines.append(f"| {name} | {value} |")
            continue
        items = sorted(value.items(), key=lambda i: i[1].value)[:3] if name == "by kind" else value.items()
        lines += [f"| {name}: {k} | {v} |" for k, v in items]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--florence2", type=Path)
    parser.add_argument("--sam2", type=Path)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--beams", type=int, nargs="*", default=[1, 3])
    parser.add_argument("--json", type=Path, help="also write all numbers here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {}
    for held_out, name in ((False, "seen pairs"), (True, "unseen pairs")):
        scenes = unseen_scenes(options.scenes, held_out)
        if options.sam2:
            model = Sam2Model.from_pretrained(options.sam2, dtype=torch.float32).eval()
            report[f"SAM2, {name}"] = evaluate_sam2(model, scenes)
        if options.florence2:
            for beams in options.beams:
                found = evaluate_florence2(Florence2(options.florence2, beams), scenes)
                report[f"Florence-2, {name}, {'greedy' if beams == 1 else f'{beams} beams'}"] = found
    for title, results in report.items():
        print(table(title, results))
    if options.json:
        options.json.write_text(json.dumps(report, default=lambda e: vars(e), indent=1) + "\n")


if __name__ == "__main__":
    main()
