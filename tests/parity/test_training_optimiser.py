"""The training's optimiser makes matrices orthogonal, and steps matrices and other parameters together."""

import pytest
import torch
from torch import nn

from florence2_sam2.training.muon import Optimisers, hidden_matrices, orthogonal

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("shape", [(3, 16, 48), (2, 48, 16), (1, 20, 20)])
def test_singular_values_come_close_to_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
    assert values.min() > 0.5
    assert values.max() < 1.3


class Model(nn.Module):
    """A tied embedding, which AdamW trains, and two hidden layers, which Muon trains."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 8)
        self.first, self.second = nn.Linear(8, 24), nn.Linear(24, 8)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(torch.tanh(self.first(self.words(ids)))))


def test_tied_embeddings_are_not_hidden_matrices() -> None:
    model = Model()
    assert {id(w) for w in hidden_matrices(model)} == {id(model.first.weight), id(model.second.weight)}


def test_it_learns_a_permutation_and_continues_from_its_state() -> None:
    torch.manual_seed(0)
    model, ids, truth = Model(), torch.arange(10), torch.randperm(10)
    optimiser = Optimisers(model.parameters(), hidden_matrices(model), 1e-2)

    def step() -> float:
        loss = nn.functional.cross_entropy(model(ids), truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    first = step()
    for _ in range(80):
        last = step()
    assert last < 0.1 * first
    again = Optimisers(model.parameters(), hidden_matrices(model), 1e-2)
    again.load_state_dict(optimiser.state_dict())
    moments = [s["moment"] for s in again.parts[1].state.values()]
    assert len(moments) == 2
    assert all(m.abs().sum() > 0 for m in moments)


def test_slow_parameters_keep_their_share_of_the_rate() -> None:
    model = Model()
    slow = list(model.first.parameters())
    optimiser = Optimisers(model.parameters(), hidden_matrices(model), 1e-2, slow, 0.25)
    optimiser.set_rate(4e-3)
    rates = {id(p): g["lr"] for part in optimiser.parts for g in part.param_groups for p in g["params"]}
    assert all(rates[id(p)] == pytest.approx(1e-3) for p in slow)
    assert rates[id(model.second.weight)] == rates[id(model.words.weight)] == pytest.approx(4e-3)
    assert len(rates) == len(list(model.parameters()))
