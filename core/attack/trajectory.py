"""The arithmetic of APGD with cross-entropy: l-inf and l2 (Croce & Hein 2020), l1 (2021).

One `Trajectory` holds the state of every image of a batch, each with its own strength and step
counter, so that it serves both training (all images at the same step) and evaluation (finished
images are replaced). It starts at the clean image, needs no random numbers, and never calls the
model: core.attack.apgd does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from core.attack.projection import (
    direction_l1,
    direction_l2,
    direction_linf,
    per_image,
    project_l1,
    project_l2,
)
from core.attack.rows import Rows
from core.config import ConfigError, nearest

RHO = 0.75
"""The step size is halved if at most this share of a window's steps raised the loss."""
MOMENTUM = 0.75
L1_SHARE = 0.2
"""Share of the pixels that the first step of an l1 attack changes."""


def windows(steps: int) -> list[int]:
    """Entry i is the length of the checkpoint window that ends with step i, or 0 if none does.

    The first window has max(int(0.22 n), 1) steps, each next one max(int(0.03 n), 1) fewer, but
    at least max(int(0.06 n), 1).
    """
    length, least, less = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    ends, position = [0] * steps, length
    while position <= steps:
        ends[position - 1] = length
        length = max(length - less, least)
        position += length
    return ends


@cache
def _windows_on(steps: int, device: torch.device) -> Tensor:
    """`windows` on the device, copied there once: each copy would make the host wait for a GPU."""
    return torch.tensor(windows(steps), device=device)


def _replace(images: Tensor, rows: Tensor, by: Tensor) -> None:
    """Overwrite the images [B, C, H, W] that the mask `rows` [B] selects with those of `by`, in
    place and without waiting for the device; new memory each time would cost as much as the
    arithmetic.
    """
    torch.where(per_image(rows), by, images, out=images)


@dataclass(eq=False)
class Trajectory(Rows):
    """APGD's state, one row per image; tensors are images [B, C, H, W] or numbers [B].

    Subclasses hold what differs between norms: how to step and how to stay in the ball.
    """

    shared: ClassVar[frozenset[str]] = frozenset({"window"})

    window: Tensor  # [steps], see `windows`
    point: Tensor
    previous: Tensor
    gradient: Tensor
    best: Tensor
    best_gradient: Tensor
    step_size: Tensor
    loss: Tensor
    best_loss: Tensor
    checked_loss: Tensor  # best loss at the last checkpoint
    rises: Tensor  # steps since then that raised the loss
    reduced: Tensor  # whether that checkpoint halved the step size
    step: Tensor  # steps taken

    @classmethod
    def start(cls, x: Tensor, gradient: Tensor, loss: Tensor, epsilon: Tensor, steps: int) -> Self:
        """The initial state at clean images x [B, C, H, W], from the gradient and the loss [B]
        there; epsilon [B]."""
        zeros = torch.zeros_like(loss, dtype=torch.long)
        known = torch.where(loss.isnan(), -torch.inf, loss)  # nothing is larger than NaN
        common = dict(
            window=_windows_on(steps, x.device),
            point=x.clone(),
            previous=x.clone(),
            gradient=gradient,
            best=x.clone(),
            best_gradient=gradient.clone(),
            step_size=2 * epsilon,
            loss=loss,
            best_loss=known,
            checked_loss=known.clone(),
            rises=zeros.clone(),
            reduced=torch.ones_like(zeros, dtype=torch.bool),
            step=zeros,
        )
        return cls(**common | cls.ball(x, epsilon))

    @classmethod
    def ball(cls, x: Tensor, epsilon: Tensor) -> dict[str, Any]:
        """Initial values of the subclass's own fields, and of common ones that it overrides."""
        raise NotImplementedError

    def uphill(self) -> Tensor:
        """The points one step size up the gradient."""
        raise NotImplementedError

    def project(self, point: Tensor) -> Tensor:
        """The nearest points in the ball and in [0, 1]; may reuse the memory of `point`."""
        raise NotImplementedError

    def advance(self) -> None:
        """Move every point one step up its gradient, with momentum.

        z = P(point + step_size * direction)
        point' = P(point + a (z - point) + (1 - a) (point - previous)), a = 1 on the first step
        """
        weight = per_image(torch.where(self.step == 0, 1.0, MOMENTUM).to(self.point.dtype))
        z = self.project(self.uphill())
        # In place: 2 point - previous, then interpolated towards z by the weight.
        following = self.project(self.previous.lerp_(self.point, 2.0).lerp_(z, weight))
        self.previous, self.point = self.point, following

    def improve(self, loss: Tensor, gradient: Tensor | None = None) -> None:
        """Keep the points that raised the best loss."""
        better = loss > self.best_loss
        _replace(self.best, better, self.point)
        if gradient is not None:
            _replace(self.best_gradient, better, gradient)
        self.best_loss = torch.fmax(loss, self.best_loss)

    def observe(self, loss: Tensor, gradient: Tensor) -> None:
        """Take in loss [B] and gradient at the current points; at the end of a window, halve the
        step size of images that oscillate or stall, and send them back to their best point."""
        self.improve(loss, gradient)
        self.rises += loss > self.loss
        window = self.window[self.step.clamp(max=len(self.window) - 1)]
        self.step += 1
        due = window > 0
        stalled = ~self.reduced & (self.checked_loss >= self.best_loss)
        halve = due & ((self.rises <= RHO * window) | stalled)
        self.loss = loss
        self.reduced = torch.where(due, halve, self.reduced)
        self.checked_loss = torch.where(due, self.best_loss, self.checked_loss)
        self.rises = torch.where(due, 0, self.rises)
        self.step_size = torch.where(halve, self.step_size / 2, self.step_size)
        self.gradient = gradient
        _replace(self.point, halve, self.best)
        _replace(self.gradient, halve, self.best_gradient)


@dataclass(eq=False)
class Linf(Trajectory):
    """Steps along the sign of the gradient."""

    low: Tensor  # bounds of ball and pixel range together
    high: Tensor

    @classmethod
    def ball(cls, x: Tensor, epsilon: Tensor) -> dict[str, Any]:
        radius = per_image(epsilon)
        return {"low": (x - radius).clamp_(min=0), "high": (x + radius).clamp_(max=1)}

    def uphill(self) -> Tensor:
        return torch.addcmul(self.point, per_image(self.step_size), direction_linf(self.gradient))

    def project(self, point: Tensor) -> Tensor:
        return torch.clamp(point, self.low, self.high, out=point)


@dataclass(eq=False)
class L2(Trajectory):
    """Steps along the gradient."""

    clean: Tensor
    epsilon: Tensor

    @classmethod
    def ball(cls, x: Tensor, epsilon: Tensor) -> dict[str, Any]:
        return {"clean": x.clone(), "epsilon": epsilon.clone()}

    def uphill(self) -> Tensor:
        return torch.addcmul(self.point, per_image(self.step_size), direction_l2(self.gradient))

    def project(self, point: Tensor) -> Tensor:
        return project_l2(point, self.clean, self.epsilon)


@dataclass(eq=False)
class L1(Trajectory):
    """Sparse steps without momentum (Croce & Hein 2021, algorithm 1). How sparse depends on how
    many pixels the best point has changed. While that number falls, steps have the size of the
    ball's radius and start from the best point; otherwise step sizes shrink, down to a tenth of the
    radius."""

    clean: Tensor
    epsilon: Tensor
    sparsity: Tensor  # number of pixels that the best point had changed at the last checkpoint
    share: Tensor  # share of the pixels that a step changes

    @classmethod
    def ball(cls, x: Tensor, epsilon: Tensor) -> dict[str, Any]:
        return {
            "clean": x.clone(),
            "epsilon": epsilon.clone(),
            "step_size": epsilon.clone(),
            "sparsity": torch.full_like(epsilon, x.shape[1:].numel()),
            "share": torch.full_like(epsilon, L1_SHARE),
        }

    def advance(self) -> None:
        self.point = self.project(self.uphill())

    def uphill(self) -> Tensor:
        direction = direction_l1(self.gradient, self.share)
        return torch.addcmul(self.point, per_image(self.step_size), direction)

    def project(self, point: Tensor) -> Tensor:
        return project_l1(point, self.clean, self.epsilon)

    def observe(self, loss: Tensor, gradient: Tensor) -> None:
        self.improve(loss, gradient)
        self.loss, self.gradient = loss, gradient
        self.step += 1
        due = self.step % max(int(0.04 * len(self.window)), 1) == 0
        changed = (self.best != self.clean).flatten(1).sum(1).to(self.sparsity.dtype)
        sparser = due & (changed < 0.95 * self.sparsity)
        smaller = (self.step_size / 1.5).maximum(self.epsilon / 10)
        size = torch.where(sparser, self.epsilon, smaller)
        self.step_size = torch.where(due, size, self.step_size)
        share = changed / self.clean.shape[1:].numel() / 1.5
        self.share = torch.where(due, share, self.share)
        self.sparsity = torch.where(due, changed, self.sparsity)
        _replace(self.point, sparser, self.best)
        _replace(self.gradient, sparser, self.best_gradient)


TRAJECTORIES: dict[str, type[Trajectory]] = {"linf": Linf, "l2": L2, "l1": L1}


def choose_trajectory(norm: str) -> type[Trajectory]:
    """The class of trajectories for a norm. Raises ConfigError if the norm is unknown."""
    if norm not in TRAJECTORIES:
        raise ConfigError(
            f"norm '{norm}': APGD has no such threat model{nearest(norm, TRAJECTORIES)}"
        )
    return TRAJECTORIES[norm]
