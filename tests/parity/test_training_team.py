"""Processes that train one model average their gradients and stop at the same step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from florence2_sam2.training.team import Team, run

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("size", [1, 2])
def test_gradients_are_averaged_and_the_leader_decides(size: int, tmp_path: Path) -> None:
    def work(team: Team) -> None:
        weight, unused = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(2))
        scale = nn.Parameter(torch.tensor(1.0))
        (weight.sum() * (team.rank + 1) + scale * 10 * team.rank).backward()
        team.average([weight, unused, scale])
        assert weight.grad is not None
        assert scale.grad is not None
        found = [weight.grad.tolist(), scale.grad.item(), unused.grad, team.agree(7.0 + team.rank)]
        (tmp_path / f"{team.rank}.json").write_text(json.dumps(found))

    run(size, tmp_path / "meeting", work)
    mean = sum(range(1, size + 1)) / size
    expected = [[[mean] * 3] * 2, 10 * (mean - 1), None, 7.0]
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(size)] == [expected] * size


def test_who_is_alone_leads() -> None:
    team = Team()
    assert team.leads
    assert team.agree(3.0) == 3.0
