"""The silent phase's captions leave out what the model could not name when the phase began, and only that."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch

from florence2_sam2.training.captions import Mention
from florence2_sam2.training.florence2 import IMAGE_TOKENS, SIDE, WIDTH
from florence2_sam2.training.scenes import draw_scene
from florence2_sam2.training.train_florence2 import CERTAIN, Trainer, nameable

pytestmark = pytest.mark.parity


def test_uncertain_things_are_left_out_but_never_all() -> None:
    one, two, three = (Mention(p, np.zeros((1, 4))) for p in ("a red car", "a blue cup", "a gray fish"))
    assert nameable([one, two, three], [0.99, CERTAIN - 0.01, CERTAIN]) == [one, three]
    assert nameable([one, two], [0.1, 0.3]) == [two]


def options(folder: Path) -> argparse.Namespace:
    return argparse.Namespace(
        output=folder,
        init="",
        seed=0,
        head_minutes=0.0,
        sigma=14.0,
        certain=CERTAIN,
        vision_minutes=0.0,
        minutes=0.0,
        text_minutes=0.0,
        silent_minutes=1.0,
        replay=0,
        save_every=9.0,
    )


def test_the_judge_learns_nothing_and_survives_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(options(tmp_path))
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    minutes = iter((0.0, 1.0))  # one step, however slow the machine is
    monkeypatch.setattr(trainer.team, "agree", lambda _: next(minutes))
    trainer.phase("silent", begin=0.0, until=0.5, rate=1e-3, batch=1)
    assert trainer.step == 1
    assert trainer.judge is not None
    assert any(not torch.equal(w, before[n]) for n, w in trainer.model.state_dict().items())
    judge = Trainer(options(tmp_path)).judge  # goes on from the state that was saved
    assert judge is not None
    for name, weight in judge.model.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_stories_are_judged_in_the_silent_phase_only(tmp_path: Path) -> None:
    trainer = Trainer(options(tmp_path))
    rng = np.random.default_rng(3)
    scene = next(s for s in (draw_scene(rng, SIDE) for _ in range(99)) if len(s.mentions()) > 2)
    features = torch.randn(1, IMAGE_TOKENS, WIDTH)
    assert len(trainer.stories([scene], features)[0].told) == len(scene.mentions())
    trainer.judge = trainer.judge_of(trainer.model.state_dict())
    story = trainer.stories([scene], features)[0]
    assert len(story.told) == 1  # untrained, it is certain of nothing
    assert len(story.mentions) == len(scene.mentions())


def test_a_new_head_learns_alone(tmp_path: Path) -> None:
    trainer = Trainer(options(tmp_path))
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    head = {name: weight.clone() for name, weight in trainer.head.state_dict().items()}
    trainer.phase("head", begin=0.0, until=trainer.clock.elapsed + 0.01, rate=1e-3, batch=1)
    assert trainer.step > 0
    assert all(not torch.equal(w, head[n]) for n, w in trainer.head.state_dict().items() if "weight" in n)
    assert all(torch.equal(w, before[n]) for n, w in trainer.model.state_dict().items())
