"""Starting weights for small widths.

transformers draws weights with a standard deviation of 0.02, meant for widths near 1000. At widths of 24 to
128 that leaves attention uniform and residual branches almost silent, and learning does not start.
"""

import math
from collections.abc import Iterable

import torch
from torch import nn


@torch.no_grad()
def scale_weights(model: nn.Module) -> None:
    """Xavier for linear layers and fan-in scaling for convolutions, in place; biases become zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.Conv2d):
            # a depthwise convolution sits on a residual branch: half the gain keeps the sum's scale
            gain = 1.0 if module.groups == 1 else 0.5
            nn.init.normal_(module.weight, 0, gain / math.sqrt(module.weight[0].numel()))
        elif isinstance(module, nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0, 1 / math.sqrt(module.weight.shape[0]))
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def optimiser(
    parameters: list[nn.Parameter], rate: float, slow: Iterable[nn.Parameter] = (), slow_share: float = 1.0
) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only; the `slow` parameters learn at `slow_share` of the rate."""
    slow_ids = {id(p) for p in slow}
    groups = []
    for share, some in (
        (1.0, [p for p in parameters if id(p) not in slow_ids]),
        (slow_share, [p for p in parameters if id(p) in slow_ids]),
    ):
        matrices, vectors = [p for p in some if p.ndim > 1], [p for p in some if p.ndim <= 1]
        groups += [
            {"params": matrices, "weight_decay": 0.02, "share": share},
            {"params": vectors, "weight_decay": 0.0, "share": share},
        ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=rate, betas=(0.9, 0.98))
