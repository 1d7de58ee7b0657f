"""A plain rewrite of the published training loop, with which our step is compared.

Like the original, it attacks at every step, even at eps = 0, through a model whose parameters
require gradients; each quantity is a new tensor, and images are selected by index.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attack(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, steps: int) -> Tensor:
    """APGD's points of highest loss, from the clean images: steps + 1 forwards, `steps` gradients.

    The first step always counts as a rise, since it is compared with a loss of 0.
    """

    def look(point: Tensor, last: bool) -> tuple[Tensor, Tensor]:
        point = point.detach().requires_grad_(True)
        loss = F.cross_entropy(model(point), y, reduction="none")
        gradient = torch.zeros_like(point) if last else torch.autograd.grad(loss.sum(), point)[0]
        return loss.detach().clone(), gradient.detach().clone()

    def inside(point: Tensor) -> Tensor:
        point = torch.min(torch.max(point, x - epsilon), x + epsilon)
        return torch.clamp(point, 0.0, 1.0)

    window, least = max(int(0.22 * steps), 1), max(int(0.06 * steps), 1)
    less, counted = max(int(0.03 * steps), 1), 0
    size = torch.full((len(x), 1, 1, 1), 2 * epsilon)
    point, previous, best = x.clone(), x.clone(), x.clone()
    best_loss, gradient = look(point, last=False)
    best_gradient, checked = gradient.clone(), best_loss.clone()
    reduced = torch.ones(len(x), dtype=torch.bool)
    history = torch.zeros(steps, len(x))
    for i in range(steps):
        a = 0.75 if i else 1.0
        moved = point - previous
        previous = point.clone()
        z = inside(point + size * torch.sign(gradient))
        point = inside(point + a * (z - point) + (1 - a) * moved)
        loss, gradient = look(point, last=i == steps - 1)
        history[i] = loss
        rows = (loss > best_loss).nonzero().squeeze(1)
        best[rows] = point[rows].clone()
        best_gradient[rows] = gradient[rows].clone()
        best_loss[rows] = loss[rows]
        counted += 1
        if counted == window:
            rises = torch.zeros(len(x))
            for j in range(window):
                rises += (history[i - j] > history[i - j - 1]).float()
            oscillates = rises <= 0.75 * window
            halve = oscillates | (~reduced & (checked >= best_loss))
            reduced, checked = halve.clone(), best_loss.clone()
            rows = halve.nonzero().squeeze(1)
            size[rows] /= 2
            point[rows] = best[rows].clone()
            gradient[rows] = best_gradient[rows].clone()
            window, counted = max(window - less, least), 0
    return best


def step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    epsilon: float,
    steps: int,
) -> float:
    """One step of adversarial training; reads the loss at once, as for a progress bar."""
    model.eval()
    attacked = attack(model, x, y, epsilon, steps)
    model.train()
    optimizer.zero_grad()
    loss = F.cross_entropy(model(attacked), y)
    loss.backward()
    optimizer.step()
    return loss.item()
