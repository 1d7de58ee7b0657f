"""Training losses: cross-entropy on attacked images, and TRADES (Zhang et al. 2019).

torch is imported only when a loss is computed, since cost estimates use this module without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from core.config import Objective, own_code

if TYPE_CHECKING:
    from torch import Tensor, nn


class Loss(ABC):
    """What training minimises; base of built-in and user-defined losses. Arguments of the
    constructor: knobs (other keys of the mapping in the grid)."""

    extra_forwards: int = 0
    """Forwards with a gradient for the weights, besides that of the attacked images, in epochs with
    an attack."""

    @abstractmethod
    def loss_sum(self, model: nn.Module, x: Tensor, adv: Tensor, y: Tensor) -> Tensor:
        """The loss summed over images x [B, 3, H, W] with labels y [B], in float32. adv: the
        attacked images, or x itself (the same object) if the epoch has no attack."""


class CrossEntropy(Loss):
    """Cross-entropy of the attacked images only (Madry et al. 2018)."""

    def loss_sum(self, model: nn.Module, x: Tensor, adv: Tensor, y: Tensor) -> Tensor:
        import torch.nn.functional as F

        return F.cross_entropy(model(adv).float(), y, reduction="sum")


class Trades(Loss):
    """CE(clean) + beta KL(clean || attacked) (Zhang et al. 2019), with separate forwards for clean
    and attacked images, both in training mode; cross-entropy of x without an attack."""

    extra_forwards = 1

    def __init__(self, beta: float) -> None:
        self.beta = beta

    def loss_sum(self, model: nn.Module, x: Tensor, adv: Tensor, y: Tensor) -> Tensor:
        import torch.nn.functional as F

        logits = model(adv).float()
        if adv is x:
            return F.cross_entropy(logits, y, reduction="sum")
        clean = model(x).float()
        drift = F.kl_div(
            logits.log_softmax(1), clean.log_softmax(1), reduction="sum", log_target=True
        )
        return F.cross_entropy(clean, y, reduction="sum") + self.beta * drift


KINDS: dict[str, type[Loss]] = {"at": CrossEntropy, "trades": Trades}


def make(objective: Objective) -> Loss:
    """The loss of a run. Raises ConfigError if a user-defined one cannot be created."""
    made: Loss = own_code.make(
        "objective", KINDS, objective.kind, objective.knobs, {"beta": objective.beta}
    )
    return made
