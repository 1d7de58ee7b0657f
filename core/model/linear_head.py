"""The last layer of a classifier, where it is linear: how far logits are from each other in units
of the features that they are computed from.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.config.strength import Norm
from core.model.trainable import head_names

DUAL = {"linf": 1.0, "l2": 2.0, "l1": torch.inf}
"""Norm of a perturbation -> order of the dual one."""


def find_linear_head(model: nn.Module, x: Tensor) -> nn.Linear | None:
    """The layer whose outputs for the images x [B, C, H, W] are the model's logits; None if there
    is no such linear layer (two heads that are averaged, logits that are scaled afterwards)."""
    modules = dict(model.named_modules())
    heads = [modules.get(name) for name in head_names(model)]
    if len(heads) != 1 or not isinstance(head := heads[0], nn.Linear):
        return None
    outputs: list[Tensor] = []
    hook = head.register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        with torch.no_grad():
            logits = model(x)
    finally:
        hook.remove()
    return head if len(outputs) == 1 and torch.equal(outputs[0], logits) else None


def gaps(head: nn.Linear, norm: Norm) -> Tensor:
    """[classes, classes]: ||w_i - w_j|| in the dual norm, inf on the diagonal; 0 between equal
    rows."""
    weights = head.weight.detach().double()
    found = torch.cdist(weights, weights, p=DUAL[norm]).fill_diagonal_(torch.inf)
    return found.to(head.weight.dtype)


def feature_margins(logits: Tensor, between: Tensor) -> Tensor:
    """min_j (f_i - f_j) / ||w_i - w_j|| of predictions i, [B]: how far the features of images are
    from those of another class. between: as `gaps` has it."""
    top, own = logits.max(1)
    lead = top[:, None] - logits
    return (lead / between[own]).where(lead > 0, 0).scatter(1, own[:, None], torch.inf).amin(1)
