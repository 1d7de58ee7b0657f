"""APGD and robust accuracy written a second time, straight from the paper: slow, plain, one image
at a time. It shares no code with core; the tests compare the two."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Attacked:
    """What a batch of attacks found, one entry per image."""

    best: Tensor  # [B, C, H, W] the iterate of highest loss
    loss: Tensor  # [B] there
    taken: Tensor  # [B] class at the first misclassified iterate, the clean image included; else y


class Path:
    """One image on its way up the loss."""

    def __init__(self, x: Tensor, epsilon: float, steps: int) -> None:
        self.x, self.epsilon, self.steps = x, epsilon, steps
        self.at, self.before, self.best = x, x, x
        self.eta = 2 * epsilon
        self.losses: list[float] = []
        self.highest = float("-inf")
        self.gradient = self.best_gradient = torch.zeros_like(x)
        self.window = max(int(0.22 * steps), 1)
        self.since = 0
        self.highest_then = 0.0
        self.halved_then = True

    def look(self, loss: float, gradient: Tensor) -> None:
        """Take in the loss and the gradient at the current point."""
        self.losses.append(loss)
        self.gradient = gradient
        if loss > self.highest:
            self.highest, self.best, self.best_gradient = loss, self.at, gradient
        if len(self.losses) == 1:
            self.highest_then = loss
            return
        self.since += 1
        if self.since == self.window:
            self._checkpoint()

    def _checkpoint(self) -> None:
        pairs = list(zip(self.losses, self.losses[1:], strict=False))[-self.window :]
        oscillates = sum(after > before for before, after in pairs) <= 0.75 * self.window
        stalls = not self.halved_then and self.highest_then >= self.highest
        if oscillates or stalls:
            self.eta /= 2
            self.at, self.gradient = self.best, self.best_gradient
        self.halved_then = oscillates or stalls
        self.highest_then = self.highest
        shorter = self.window - max(int(0.03 * self.steps), 1)
        self.window, self.since = max(shorter, max(int(0.06 * self.steps), 1)), 0

    def _project(self, point: Tensor) -> Tensor:
        point = torch.minimum(torch.maximum(point, self.x - self.epsilon), self.x + self.epsilon)
        return point.clamp(0, 1)

    def move(self, first: bool) -> None:
        share = 1.0 if first else 0.75
        z = self._project(self.at + self.eta * torch.sign(self.gradient))
        following = self.at + share * (z - self.at) + (1 - share) * (self.at - self.before)
        self.before, self.at = self.at, self._project(following)


def attack(model: nn.Module, x: Tensor, y: Tensor, epsilons: list[float], steps: int) -> Attacked:
    """APGD with cross-entropy from the clean images; epsilons: one per image."""
    paths = [Path(image, eps, steps) for image, eps in zip(x, epsilons, strict=True)]
    taken = y
    for step in range(steps + 1):
        if step:
            for path in paths:
                path.move(first=step == 1)
        points = torch.stack([path.at for path in paths]).requires_grad_()
        logits = model(points)
        losses = F.cross_entropy(logits.float(), y, reduction="none")
        (gradients,) = torch.autograd.grad(losses.sum(), points)
        taken = torch.where(taken == y, logits.argmax(1), taken)
        for path, loss, gradient in zip(paths, losses.tolist(), gradients, strict=True):
            path.look(loss, gradient)
    best = torch.stack([path.best for path in paths]).detach()
    return Attacked(best, torch.tensor([path.highest for path in paths]), taken)


def classes(model: nn.Module, x: Tensor, y: Tensor, strengths: list[float], steps: int) -> Tensor:
    """[strengths, B]: what images are taken for under an attack of their own at each strength:
    every image, every strength, every step."""
    return torch.stack([attack(model, x, y, [eps] * len(x), steps).taken for eps in strengths])


def from_there_on(classes: Tensor, critical: list[int], y: Tensor) -> list[int]:
    """What each image is taken for at its critical strength; its label if it has none."""
    ends = [*classes.T.tolist()]
    return [
        seen[level] if level < len(seen) else label
        for seen, level, label in zip(ends, critical, y.tolist(), strict=True)
    ]
