"""An exponential moving average of the weights, which is evaluated instead of them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Average:
    """After each step, average = decay * average + (1 - decay) * weights, starting from the weights
    before the first step. BatchNorm statistics are averaged, too; counters are copied."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Include the weights after an optimiser step."""
        mine, theirs = self.model.state_dict(), model.state_dict()
        floats: tuple[list[Tensor], list[Tensor]] = ([], [])
        for name, value in mine.items():
            if value.is_floating_point():
                floats[0].append(value)
                floats[1].append(theirs[name])
            else:
                value.copy_(theirs[name])
        torch._foreach_lerp_(*floats, 1 - self.decay)
