"""The last layer of a classifier, if it is linear, and margins in the space of its inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.config.strength import Norm

DUAL: dict[Norm, float] = {"linf": 1.0, "l2": 2.0, "l1": torch.inf}
"""Norm of a perturbation -> order of its dual norm."""


def find_linear_head(model: nn.Module, x: Tensor) -> nn.Linear | None:
    """The linear layer whose outputs for images x [B, C, H, W] are the model's logits; None if
    there is none (two heads that are averaged, logits that are scaled afterwards)."""
    outputs: dict[nn.Module, list[Tensor]] = {
        layer: [] for layer in model.modules() if isinstance(layer, nn.Linear)
    }
    hooks = [
        layer.register_forward_hook(lambda layer, _, output: outputs[layer].append(output))
        for layer in outputs
    ]
    try:
        with torch.no_grad():
            logits = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    heads = [
        layer
        for layer, made in outputs.items()
        if isinstance(layer, nn.Linear) and len(made) == 1 and torch.equal(made[0], logits)
    ]
    return heads[0] if len(heads) == 1 else None


def gaps(head: nn.Linear, norm: Norm) -> Tensor:
    """[classes, classes]: ||w_i - w_j||, the distances of the head's weight rows in the dual norm,
    inf on the diagonal."""
    weights = head.weight.detach().double()
    found = torch.cdist(weights, weights, p=DUAL[norm]).fill_diagonal_(torch.inf)
    return found.to(head.weight.dtype)


def feature_margins(logits: Tensor, between: Tensor) -> Tensor:
    """min_j (f_i - f_j) / ||w_i - w_j|| for predicted classes i, [B]: the distance from an image's
    features to the boundary of another class. between: the output of `gaps`."""
    top, own = logits.max(1)
    lead = top[:, None] - logits
    return (lead / between[own]).where(lead > 0, 0).scatter(1, own[:, None], torch.inf).amin(1)
