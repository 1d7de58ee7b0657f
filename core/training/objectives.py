"""Training losses: cross-entropy on attacked images, and TRADES (Zhang et al. 2019).

torch is imported where a loss is computed: estimates ask a loss what it costs without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from core.config import Objective, own_code

if TYPE_CHECKING:
    from torch import Tensor, nn


class Loss(ABC):
    """What training minimises. An own one inherits this; its knobs are keyword arguments."""

    extra_forwards: int = 0
    """Forwards to the weights beside that of the attacked images, in epochs with an attack."""

    @abstractmethod
    def loss_sum(self, model: nn.Module, x: Tensor, adv: Tensor, y: Tensor) -> Tensor:
        """The loss of images x [B, 3, H, W] with labels y [B], summed over them, in float32; adv
        are the attacked images, or x itself (the same object) if the epoch has no attack."""


class CrossEntropy(Loss):
    """Of the attacked images alone (Madry et al. 2018)."""

    def loss_sum(self, model: nn.Module, x: Tensor, adv: Tensor, y: Tensor) -> Tensor:
        import torch.nn.functional as F

        return F.cross_entropy(model(adv).float(), y, reduction="sum")


class Trades(Loss):
    """CE(clean) + beta KL(clean || attacked), both branches in training mode and each a forward by
    itself; without an attack both are cross-entropy on x."""

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
    """The loss of a run. Raises ConfigError if it is own code that cannot be made."""
    made: Loss = own_code.make(
        "objective", KINDS, objective.kind, objective.knobs, {"beta": objective.beta}
    )
    return made
