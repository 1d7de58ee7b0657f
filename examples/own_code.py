"""User-defined schedule, loss and backbone, used by own_code.yaml."""

import torch.nn.functional as F
from torch import Tensor, nn

from core.training.objectives import Loss
from core.training.schedules import EpsilonSchedule


class Power(EpsilonSchedule):
    """Rises from 0 at the first epoch to full strength at the last, as a power of time."""

    def __init__(self, epochs: int, power: float = 1.0) -> None:
        self.last, self.power = max(1, epochs - 1), power

    def alpha(self, epoch: int) -> float:
        return float((epoch / self.last) ** self.power)


class Smooth(Loss):
    """Cross-entropy on attacked images with smoothed labels."""

    def __init__(self, smoothing: float = 0.1) -> None:
        self.smoothing = smoothing

    def loss_sum(self, model: nn.Module, x: Tensor, adv: Tensor, y: Tensor) -> Tensor:
        logits = model(adv).float()
        return F.cross_entropy(logits, y, reduction="sum", label_smoothing=self.smoothing)


class Tiny(nn.Module):
    """Two convolutions and a head, for pixels in [0, 1]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 16, 5, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 5, stride=2), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )
        self.head = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x))
        return logits
