"""Training losses: cross-entropy on attacked images, TRADES (Zhang et al. 2019) and AutoLoRa (Xu et
al. 2024).

torch is imported only when a loss is computed, since cost estimates use this module without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from core.config import Objective, own_code

if TYPE_CHECKING:
    from torch import Tensor, nn


class Loss(ABC):
    """What training minimises; base of built-in and user-defined losses. Arguments of the
    constructor: knobs (other keys of the mapping in the grid).

    >>> import torch
    >>> from torch.nn import functional as F
    >>> class Smooth(Loss):
    ...     def loss_sum(self, model, x, adv, y):
    ...         return F.cross_entropy(model(adv), y, reduction="sum", label_smoothing=0.1)
    >>> x, y = torch.zeros(2, 3, 1, 1), torch.tensor([0, 2])
    >>> Smooth().loss_sum(torch.nn.Flatten(), x, x, y)  # 2 log 3: three equally likely classes
    tensor(2.1972)
    """

    extra_forwards: int = 0
    """Number of forwards with a gradient for the weights, besides the one of the attacked images,
    in epochs with an attack."""

    def begin_epoch(self, model: nn.Module, accuracy: Callable[[], float]) -> dict[str, float]:
        """Called before every epoch with an attack. accuracy: measures the share of the training
        images, not augmented, that `model` classifies correctly when this is called.

        Returns further fields for the epoch's row in metrics.jsonl. Attributes that a loss sets
        here must follow from the weights alone: a resumed run calls this again before its first
        epoch.
        """
        return {}

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
        return F.cross_entropy(clean, y, reduction="sum") + self.beta * _drift(clean, logits)


class AutoLora(Loss):
    """Clean images go through the adapters, attacked ones through the network without them:

    (1 - a) CE(clean) + a CE(attacked) + 6 a KL(clean || attacked),

    where a is the accuracy with adapters on the training images, measured before each epoch. Clean
    images train adapters and head, attacked ones the network and its head. Without an attack it is
    cross-entropy on x, and the adapters are not trained.
    """

    extra_forwards = 1
    """The clean images' forward and backward, without gradients for the backbone's weights, counts
    as two thirds of one; measuring the accuracy counts as the rest."""
    strength = 6.0

    def begin_epoch(self, model: nn.Module, accuracy: Callable[[], float]) -> dict[str, float]:
        from core.model import lora

        self.adapted = model  # `loss_sum` may get a compiled one
        with lora.branch(model):
            self.accuracy = accuracy()
        return {"branch_accuracy": self.accuracy}

    def loss_sum(self, model: nn.Module, x: Tensor, adv: Tensor, y: Tensor) -> Tensor:
        import torch.nn.functional as F

        from core.model import lora

        logits = model(adv).float()
        attacked = F.cross_entropy(logits, y, reduction="sum")
        if adv is x:
            return attacked
        with lora.branch(self.adapted):
            clean = model(x).float()
        natural = F.cross_entropy(clean, y, reduction="sum")
        own = (1 - self.accuracy) * natural + self.accuracy * attacked
        return own + self.strength * self.accuracy * _drift(clean, logits)


def _drift(clean: Tensor, attacked: Tensor) -> Tensor:
    """KL(clean || attacked) of logits [B, classes], summed."""
    import torch.nn.functional as F

    return F.kl_div(attacked.log_softmax(1), clean.log_softmax(1), reduction="sum", log_target=True)


KINDS: dict[str, type[Loss]] = {"at": CrossEntropy, "trades": Trades, "autolora": AutoLora}


def make(objective: Objective) -> Loss:
    """The loss of a run. Raises ConfigError if a user-defined one cannot be created."""
    made: Loss = own_code.make(
        "objective", KINDS, objective.kind, objective.knobs, {"beta": objective.beta}
    )
    return made
