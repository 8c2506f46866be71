"""Train the small Florence-2: `python -m florence2_sam2.training.train_florence2 --minutes 90 --output DIR`.

Three phases by the clock, and a fourth that may be left out. First the vision tower learns with a throw-away head
what is where (see dense.py): shorter than until it names most things, and the decoder never learns to look. Then
everything learns to caption, to ground phrases and, a little, to detect. One run of the vision tower serves all
tasks of a picture. Locations are scored against Gaussians over the bins, wide at first and narrow at the end. Then
the language model alone goes on: it names less than the head reads from the same image tokens, and without the
tower's gradients a step costs half. In the fourth phase, a few minutes long, captions no longer mention what it could
not name when that phase began: a caption is grounded and believed, and who guesses at a thing of twenty pixels
does worse than who is silent. It comes after the reading has been learnt, or it teaches too much silence.

To go on from a checkpoint, whose head is lost, begin with `--head-minutes` of a new head alone.
"""

import argparse
import copy
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import Florence2ForConditionalGeneration, PreTrainedTokenizerFast

from florence2_sam2.training.average import WeightAverage
from florence2_sam2.training.captions import (
    Mention,
    caption_example,
    detection_example,
    grounding_example,
    misquoted,
)
from florence2_sam2.training.dense import DenseHead, cell_counts, stack_targets
from florence2_sam2.training.diet import Diet, draw
from florence2_sam2.training.florence2 import IMAGE_TOKENS, SIDE, new_model, start_from
from florence2_sam2.training.images import to_pixels
from florence2_sam2.training.muon import Optimisers, hidden_matrices
from florence2_sam2.training.progress import Clock, Log, learning_rate, load_state, save_state
from florence2_sam2.training.scenes import Scene
from florence2_sam2.training.team import Team
from florence2_sam2.training.team import run as run_team
from florence2_sam2.training.text_loss import TextLoss
from florence2_sam2.training.tokenizer import make_tokenizer, save_processor

SIGMA_WIDE, SIGMA_NARROW = 14.0, 4.0  # location bins
DETECTION_SHARE = 0.12
MEMORY, LONG_MEMORY = 160, 1500  # scenes; image tokens grow stale unless the tower rests
LOCATED_SHARE = 0.35  # of the last phases' stories: captions are what is left to learn
CERTAIN = 0.4  # a thing whose name is less probable is left out of the silent phase's captions
MISQUOTED = 0.25  # of the captions to be grounded; at 0.4 too much that is there was left out as well


@dataclass(frozen=True)
class Story:
    """What the texts about a scene need: its image tokens [T, D] (without gradient), `cell_counts`, and the words.

    `told` are those of the mentions that a caption makes.
    """

    features: torch.Tensor
    counts: torch.Tensor
    mentions: list[Mention]
    told: list[Mention]
    background: str

    def told_example(self, rng: np.random.Generator) -> tuple[str, list[bool]]:
        """A caption, and which of its numbers are to be learnt."""
        return caption_example(rng, self.told, self.background)

    def located_example(self, rng: np.random.Generator) -> tuple[str, str]:
        """A (prompt, answer) with boxes: mostly phrase grounding, sometimes detection."""
        if rng.random() < DETECTION_SHARE:
            return detection_example(rng, self.mentions)
        mentions = misquoted(rng, self.mentions) if rng.random() < MISQUOTED else self.mentions
        return grounding_example(rng, mentions, self.background)


def nameable(mentions: list[Mention], certainty: list[float], enough: float = CERTAIN) -> list[Mention]:
    """The mentions of what is named with enough certainty, at least the most certain one."""
    limit = min(enough, max(certainty))
    return [m for m, c in zip(mentions, certainty, strict=True) if c >= limit]


def tokenizer_of(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of the run that is being continued, else a new one, saved there for the next time."""
    if not (folder / "tokenizer.json").exists():
        save_processor(make_tokenizer(), SIDE, IMAGE_TOKENS, folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


class Trainer:
    """The model, the throw-away head and the random numbers of one run."""

    def __init__(self, options: argparse.Namespace, team: Team = Team()) -> None:  # noqa: B008 - one alone
        self.options, self.team = options, team
        torch.manual_seed(options.seed)
        self.rng = np.random.default_rng(options.seed)
        self.tokenizer = tokenizer_of(options.output / "checkpoint")
        self.model = new_model(self.tokenizer)
        self.head = DenseHead()
        self.matrices = [*hidden_matrices(self.model), *hidden_matrices(self.head)]
        self.text_loss = TextLoss(self.model, self.tokenizer)
        self.mean = WeightAverage(self.model)
        self.modules: dict[str, nn.Module] = {
            "model": self.model,
            "head": self.head,
            "average": self.mean.averaged,
        }
        self.log = Log(options.output / "log.jsonl")
        self.state = options.output / "state.pt"
        self.memory: deque[Story] = deque(maxlen=MEMORY)
        self.step, elapsed, facts = 0, 0.0, {}
        if options.init:
            start_from(self.model, self.tokenizer, options.init)
        if self.state.exists():
            facts = load_state(self.state, self.modules, self.rng)
            self.step, elapsed = facts["step"], facts["elapsed"]
        # Whoever learns to be silent grows less certain of what it no longer says: the judge learns nothing.
        self.judge: TextLoss | None = None
        if "judge" in facts:
            self.judge = self.judge_of(facts["judge"])
        if not team.leads:  # the same weights, other scenes
            self.rng = np.random.default_rng((options.seed, self.step, team.rank))
        self.diet = Diet(self.rng)
        last = options.text_minutes + options.silent_minutes
        self.clock = Clock(options.head_minutes + options.vision_minutes + options.minutes + last, elapsed)

    def judge_of(self, weights: dict[str, torch.Tensor]) -> TextLoss:
        """Who says what can be named: the model as it was when the silent phase began."""
        model = copy.deepcopy(self.model)
        model.load_state_dict(weights)
        return TextLoss(model, self.tokenizer)

    def save(self) -> None:
        """Write what an interrupted run needs to go on."""
        judge = {"judge": self.judge.model.state_dict()} if self.judge else {}
        save_state(self.state, self.modules, self.rng, step=self.step, elapsed=self.clock.elapsed, **judge)

    def stories(self, scenes: list[Scene], features: torch.Tensor) -> list[Story]:
        """What texts are made of, for scenes and their image tokens [B, T, D]."""
        features, mentions = features.detach(), [s.mentions() for s in scenes]
        told = mentions
        if self.judge:
            phrases = [[m.phrase for m in each] for each in mentions]
            certainty = self.judge.certainty(features, [s.caption for s in scenes], phrases)
            told = [nameable(m, c, self.options.certain) for m, c in zip(mentions, certainty, strict=True)]
            self.log.add(told=sum(map(len, told)) / sum(map(len, mentions)))
        return [
            Story(f, cell_counts(s), m, t, s.background)
            for f, s, m, t in zip(features, scenes, mentions, told, strict=True)
        ]

    def dense_loss(self, scenes: list[Scene], sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The head's loss and the image tokens [B, T, D]."""
        features = self.model.model.get_image_features(to_pixels([s.image for s in scenes])).pooler_output
        shared = self.model.model.language_model.shared.weight
        loss, facts = self.head.loss(features, stack_targets(scenes), shared[self.text_loss.locations], sigma)
        self.log.add(**facts)
        return loss, features

    def joint_loss(self, scenes: list[Scene], fraction: float) -> torch.Tensor:
        """The texts' loss for each scene and for some remembered ones, and the head's loss."""
        wide = self.options.sigma
        sigma = wide + (SIGMA_NARROW - wide) * fraction
        dense, features = self.dense_loss(scenes, sigma)
        return dense + self.texts_loss(scenes, features, sigma, located=1.0)

    def resting_loss(self, scenes: list[Scene]) -> torch.Tensor:
        """The texts' loss alone, while the vision tower rests."""
        with torch.no_grad():
            body = self.model.model
            features = body.get_image_features(to_pixels([s.image for s in scenes])).pooler_output
        return self.texts_loss(scenes, features, SIGMA_NARROW, LOCATED_SHARE)

    def texts_loss(
        self, scenes: list[Scene], features: torch.Tensor, sigma: float, located: float
    ) -> torch.Tensor:
        """A caption for each scene and for some remembered ones, and for a share of them one located example.

        Half of a step's work is the vision tower. Remembered image tokens, a few dozen steps old, teach the
        language model at no such cost; they get another located example each time.
        """
        fresh = self.stories(scenes, features)
        chosen = self.rng.permutation(len(self.memory))[: self.options.replay]
        remembered = [self.memory[i] for i in chosen]
        self.memory.extend(fresh)
        stories = fresh + remembered
        features = torch.cat([features, *(s.features[None] for s in remembered)])
        told, named, placed, encoded = self.text_loss(
            features,
            [s.told_example(self.rng) for s in stories],
            [s.located_example(self.rng) for s in stories[: round(located * len(stories))]],
            sigma,
        )
        counted, facts = self.head.count_loss(encoded, torch.stack([s.counts for s in stories]))
        self.log.add(caption=told.detach(), phrase=named.detach(), location=placed.detach(), **facts)
        return told + 0.5 * named + placed + 0.5 * counted

    def phase(self, name: str, begin: float, until: float, rate: float, batch: int) -> None:
        """Train until that many minutes have passed; each phase has its own learning-rate cosine.

        Where texts are learnt, the phase ends with the mean of its last weights.
        """
        averaging = name not in ("vision", "head")  # their weights still go somewhere
        body = self.model.model
        vision = [p for t in (body.vision_tower, body.multi_modal_projector) for p in t.parameters()]
        self.model.requires_grad_(name != "head")
        if name == "head":
            parameters = [*self.head.parameters()]
            optimizer = Optimisers(parameters, self.matrices, rate)
        elif name == "vision":
            parameters = [*self.head.parameters(), *vision, body.language_model.shared.weight]
            optimizer = Optimisers(parameters, self.matrices, rate)
        elif name in ("text", "silent"):
            parameters = [*self.head.several.parameters(), *body.language_model.parameters()]
            optimizer = Optimisers(parameters, self.matrices, rate)
            self.memory = deque(self.memory, LONG_MEMORY)
            if name == "silent":
                self.memory.clear()  # they tell what cannot be named
                self.judge = self.judge or self.judge_of(self.model.state_dict())
            else:
                self.judge = None
        else:  # at the full rate the tower would forget faster than the text teaches it
            parameters = [*self.head.parameters(), *self.model.parameters()]
            optimizer = Optimisers(parameters, self.matrices, rate, vision, self.options.vision_share)
        since, saved = self.step, self.clock.elapsed
        while (elapsed := self.team.agree(self.clock.elapsed)) < until:
            fraction = (elapsed - begin) / (until - begin)
            at = self.mean.for_rate(fraction) if averaging else fraction
            optimizer.set_rate(learning_rate(rate, self.step - since, at))
            scenes = [self.diet.draw() if name == "vision" else draw(self.rng) for _ in range(batch)]
            if name == "vision":
                loss = self.dense_loss(scenes, SIGMA_WIDE)[0]
            elif name in ("text", "silent"):
                loss = self.resting_loss(scenes)
            else:
                loss = self.joint_loss(scenes, fraction)
            optimizer.zero_grad()
            loss.backward()
            self.team.average(parameters)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            if averaging:
                self.mean.step(fraction)
            self.step += 1
            if not self.team.leads:
                continue
            if self.log.due():
                self.log.write(phase=name, minutes=self.clock.elapsed, step=self.step)
            if self.clock.elapsed - saved > self.options.save_every:
                saved = self.clock.elapsed
                self.save()
        self.mean.take_over()
        if self.team.leads:
            self.save()

    def run(self) -> None:
        self.model.train()
        options = self.options
        until = 0.0
        for name, minutes, rate, batch in (
            ("head", options.head_minutes, options.vision_rate, options.batch),
            ("vision", options.vision_minutes, options.vision_rate, options.vision_batch),
            ("joint", options.minutes, options.rate, options.batch),
            ("text", options.text_minutes, options.text_rate, options.text_batch),
            ("silent", options.silent_minutes, options.text_rate / 2, options.text_batch),
        ):
            begin, until = until, until + minutes
            # Each process has a clock of its own, and who stays behind in a phase waits for ever.
            if self.team.agree(self.clock.elapsed) < until:
                self.phase(name, begin, until, rate, batch)


def export(
    model: Florence2ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    """An ordinary checkpoint folder in float16, with its processor and generation settings."""
    copy = Florence2ForConditionalGeneration(model.config)
    copy.load_state_dict(model.state_dict())
    copy.generation_config = model.generation_config
    copy.half().save_pretrained(folder)
    save_processor(tokenizer, SIDE, IMAGE_TOKENS, folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--head-minutes", type=float, default=0, help="first, of a new throw-away head alone")
    parser.add_argument("--vision-minutes", type=float, default=25, help="of the vision tower alone")
    parser.add_argument("--minutes", type=float, default=65, help="of everything together, afterwards")
    parser.add_argument("--text-minutes", type=float, default=40, help="of the language model alone, at last")
    parser.add_argument(
        "--silent-minutes", type=float, default=0, help="in which captions leave out the unsure"
    )
    parser.add_argument(
        "--certain", type=float, default=CERTAIN, help="probability of a name that is sure enough"
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--vision-rate", type=float, default=2e-3)
    parser.add_argument("--rate", type=float, default=1.2e-3)
    parser.add_argument(
        "--vision-share", type=float, default=0.2, help="of the rate, for the tower in the joint phase"
    )
    parser.add_argument(
        "--sigma", type=float, default=SIGMA_WIDE, help="location bins; where the joint phase begins"
    )
    parser.add_argument("--vision-batch", type=int, default=16, help="scenes a step")
    parser.add_argument("--batch", type=int, default=8, help="new scenes a step")
    parser.add_argument("--text-rate", type=float, default=8e-4)
    parser.add_argument("--text-batch", type=int, default=3, help="new scenes a step")
    parser.add_argument("--replay", type=int, default=0, help="remembered scenes a step, text only")
    parser.add_argument("--init", default="", help="a small checkpoint folder to start from")
    parser.add_argument("--save-every", type=float, default=5, help="minutes")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with a batch of its own")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    tokenizer_of(options.output / "checkpoint")  # before several processes would write it
    torch.set_num_threads(1)

    def work(team: Team) -> None:
        trainer = Trainer(options, team)
        trainer.run()
        if team.leads:
            export(trainer.model, trainer.tokenizer, options.output / "checkpoint")

    run_team(options.workers, options.output / "meeting", work)


if __name__ == "__main__":
    main()
