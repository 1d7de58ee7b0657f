"""Training losses: cross-entropy on attacked images, and TRADES (Zhang et al. 2019)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from core.config import Objective


def loss_sum(objective: Objective, model: nn.Module, x: Tensor, adv: Tensor, y: Tensor) -> Tensor:
    """The loss summed over images, computed in float32; `adv` are the attacked images, or x itself
    (the same object) where the epoch has no attack.

    TRADES: CE(clean) + beta KL(clean || attacked), both branches in training mode and each a
    forward of its own. Without an attack both are cross-entropy on x.
    """
    logits = model(adv).float()
    if objective.kind == "at" or adv is x:
        return F.cross_entropy(logits, y, reduction="sum")
    clean = model(x).float()
    drift = F.kl_div(logits.log_softmax(1), clean.log_softmax(1), reduction="sum", log_target=True)
    return F.cross_entropy(clean, y, reduction="sum") + objective.beta * drift
