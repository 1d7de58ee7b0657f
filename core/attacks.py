"""APGD, l-inf, cross-entropy (Croce & Hein 2020), as training and evaluation use it.

One `Trajectory` holds the state of every image of a batch, each with its own strength and its own
step counter, so that training (all images in step) and evaluation (images come and go) share the
arithmetic. Starts at the clean image and needs no random numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RHO = 0.75
"""Fewer improvements than this share of a window halve the step size."""
MOMENTUM = 0.75


def windows(steps: int) -> list[int]:
    """Entry i is the length of the checkpoint window that ends with step i, 0 where none does.

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


def per_image(values: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, 1], to scale images."""
    return values.view(-1, 1, 1, 1)


@contextmanager
def attacking(model: nn.Module) -> Iterator[nn.Module]:
    """The model to attack: unwrapped, in evaluation mode, parameters frozen.

    Training modes and requires_grad are restored on every way out. Frozen parameters save the
    activations their gradients would need (-37 % on ViT-S); a DDP wrapper would synchronise
    buffers and arm its reducer on each of the forwards.
    """
    inner: nn.Module = getattr(model, "module", model)
    modes = [(module, module.training) for module in inner.modules()]
    frozen = [parameter for parameter in inner.parameters() if parameter.requires_grad]
    try:
        inner.eval()
        for parameter in frozen:
            parameter.requires_grad_(False)
        yield inner
    finally:
        for module, training in modes:
            module.training = training
        for parameter in frozen:
            parameter.requires_grad_(True)


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy [B], always computed in float32, and logits [B, classes]; no gradient."""
    with torch.no_grad():
        logits = model(x)
        return F.cross_entropy(logits.float(), y, reduction="none"), logits


def gradient_of(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy [B], its gradient with respect to x [B, C, H, W], and logits, all detached."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        logits = model(x)
        loss = F.cross_entropy(logits.float(), y, reduction="none")
        (gradient,) = torch.autograd.grad(loss.sum(), x)
    return loss.detach(), gradient, logits.detach()


@dataclass(eq=False)
class Trajectory:
    """APGD's state, one row per image; tensors are images [B, C, H, W] or numbers [B].

    low and high bound both the ball around the clean image and the pixel range [0, 1].
    """

    window: Tensor  # [steps], see `windows`
    low: Tensor
    high: Tensor
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
    def start(
        cls, x: Tensor, gradient: Tensor, loss: Tensor, epsilon: Tensor, steps: int
    ) -> Trajectory:
        """At the clean images x, with the loss and gradient there; epsilon [B] in [0, 1]."""
        ball = per_image(epsilon)
        zeros = torch.zeros_like(loss, dtype=torch.long)
        return cls(
            window=torch.tensor(windows(steps), device=x.device),
            low=(x - ball).clamp_(min=0),
            high=(x + ball).clamp_(max=1),
            point=x.clone(),
            previous=x.clone(),
            gradient=gradient,
            best=x.clone(),
            best_gradient=gradient.clone(),
            step_size=2 * epsilon,
            loss=loss,
            best_loss=loss.clone(),
            checked_loss=loss.clone(),
            rises=zeros.clone(),
            reduced=torch.ones_like(zeros, dtype=torch.bool),
            step=zeros,
        )

    def advance(self) -> None:
        """Move every point one step along the sign of its gradient, with momentum.

        z = P(point + step_size * sign(gradient))
        point' = P(point + a (z - point) + (1 - a) (point - previous)), a = 1 on the first step
        """
        weight = per_image(torch.where(self.step == 0, 1.0, MOMENTUM).to(self.point.dtype))
        z = torch.addcmul(self.point, per_image(self.step_size), self.gradient.sign_())
        torch.clamp(z, self.low, self.high, out=z)
        # In place: 2 point - previous, then from there to z by the weight.
        following = self.previous.lerp_(self.point, 2.0).lerp_(z, weight)
        torch.clamp(following, self.low, self.high, out=following)
        self.previous, self.point = self.point, following

    def improve(self, loss: Tensor, gradient: Tensor | None = None) -> None:
        """Keep the points that raised the best loss."""
        better = loss > self.best_loss
        self.best = torch.where(per_image(better), self.point, self.best)
        if gradient is not None:
            self.best_gradient = torch.where(per_image(better), gradient, self.best_gradient)
        self.best_loss = torch.maximum(loss, self.best_loss)

    def observe(self, loss: Tensor, gradient: Tensor) -> None:
        """Take in loss and gradient at the current points; at the end of a window, halve the step
        size of images that oscillate or stall, and send them back to their best point."""
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
        self.point = torch.where(per_image(halve), self.best, self.point)
        self.gradient = torch.where(per_image(halve), self.best_gradient, gradient)

    def put(self, rows: Tensor, other: Trajectory) -> None:
        """Replace the given rows [K] by those of `other`."""
        for name in _ROW_FIELDS:
            getattr(self, name)[rows] = getattr(other, name)

    def keep(self, rows: Tensor) -> None:
        """Drop all but the given rows [K]."""
        for name in _ROW_FIELDS:
            setattr(self, name, getattr(self, name)[rows])


_ROW_FIELDS = tuple(field.name for field in fields(Trajectory) if field.name != "window")


def apgd(
    model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float | Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Adversarial examples for training: the point of highest loss on each trajectory.

    x: [B, C, H, W] in [0, 1]; y: [B]; epsilon: one strength or one per image [B], in [0, 1].
    Returns (x_best, clean logits). Costs steps + 1 forwards and steps input gradients; the clean
    logits are the first forward's. The result lies in the ball and in [0, 1].
    """
    strength = torch.as_tensor(epsilon, dtype=x.dtype, device=x.device).expand(len(x))
    with attacking(model) as target:
        loss, gradient, clean_logits = gradient_of(target, x, y)
        path = Trajectory.start(x, gradient, loss, strength, steps)
        for _ in range(steps - 1):
            path.advance()
            loss, gradient, _ = gradient_of(target, path.point, y)
            path.observe(loss, gradient)
        path.advance()
        path.improve(loss_of(target, path.point, y)[0])
    return path.best, clean_logits
