"""The mean of a model's weights over the last part of a phase, in place of its last weights.

At a rate that does not fall to zero the weights wander around a better place than any they come by (Izmailov et al.,
"Averaging Weights Leads to Wider Optima and Better Generalization", 2018).
"""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

AVERAGED_FROM = 0.6  # of a phase; there the rate's cosine stops as well, at a third of its peak


class WeightAverage:
    """The running mean of `model`'s weights since AVERAGED_FROM. `averaged` is what an interrupted run must keep."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.averaged = AveragedModel(model)

    def for_rate(self, fraction: float) -> float:
        """The fraction of a phase at which its learning rate stands."""
        return min(fraction, AVERAGED_FROM)

    def step(self, fraction: float) -> None:
        """Count the weights in, if this fraction of the phase is late enough; else forget those of an older run."""
        if fraction >= AVERAGED_FROM:
            self.averaged.update_parameters(self._model)
        else:
            self.averaged.n_averaged.zero_()

    def follow(self, model: nn.Module) -> None:
        """The run goes on in another model, whose weights have the same shapes."""
        self._model = model

    def take_over(self) -> None:
        """The phase is over: the model gets the mean, and the next one starts anew. Nothing if none was taken."""
        if int(self.averaged.n_averaged):
            with torch.no_grad():
                self._model.load_state_dict(self.averaged.module.state_dict())
            self.averaged.n_averaged.zero_()
