"""The last part of a phase is averaged: that part only, and the model has the mean afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from florence2_sam2.training.average import AVERAGED_FROM, WeightAverage
from florence2_sam2.training.progress import load_state, save_state

pytestmark = pytest.mark.parity


def model_of(value: float) -> nn.Linear:
    model = nn.Linear(2, 1, bias=False)
    set_to(model, value)
    return model


def set_to(model: nn.Linear, value: float) -> None:
    with torch.no_grad():
        model.weight.fill_(value)


def test_the_model_gets_the_mean_of_the_last_part() -> None:
    model = model_of(0)
    mean = WeightAverage(model)
    for value, fraction in ((100, 0.1), (100, AVERAGED_FROM - 0.01), (1, AVERAGED_FROM), (2, 0.8), (6, 0.99)):
        set_to(model, value)
        mean.step(fraction)
    mean.take_over()
    assert model.weight.tolist() == [[3, 3]]
    set_to(model, 7)  # the next phase knows nothing of this one
    mean.step(0.9)
    mean.take_over()
    assert model.weight.tolist() == [[7, 7]]


def test_it_follows_into_another_model() -> None:
    first, second = model_of(2), model_of(4)
    mean = WeightAverage(first)
    mean.step(0.7)
    mean.follow(second)
    mean.step(0.9)
    mean.take_over()
    assert first.weight.tolist() == [[2, 2]]
    assert second.weight.tolist() == [[3, 3]]


def test_without_a_last_part_the_model_stays() -> None:
    model = model_of(5)
    mean = WeightAverage(model)
    mean.step(0.2)
    mean.take_over()
    assert model.weight.tolist() == [[5, 5]]


def test_an_interrupted_phase_goes_on_with_its_mean(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = model_of(2)
    mean = WeightAverage(model)
    mean.step(0.7)
    save_state(tmp_path / "state.pt", {"model": model, "average": mean.averaged}, rng, step=1)
    again = model_of(0)
    taken_up = WeightAverage(again)
    assert load_state(tmp_path / "state.pt", {"model": again, "average": taken_up.averaged}, rng) == {
        "step": 1
    }
    set_to(again, 4)
    taken_up.step(0.8)
    taken_up.take_over()
    assert again.weight.tolist() == [[3, 3]]


def test_a_state_from_before_there_was_a_mean_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    save_state(tmp_path / "state.pt", {"model": model_of(2)}, rng, step=1)
    model = model_of(0)
    load_state(tmp_path / "state.pt", {"model": model, "average": WeightAverage(model).averaged}, rng)
    assert model.weight.tolist() == [[2, 2]]


def test_the_rate_stops_falling_where_the_mean_begins() -> None:
    mean = WeightAverage(model_of(0))
    assert mean.for_rate(0.3) == 0.3
    assert mean.for_rate(0.9) == AVERAGED_FROM
