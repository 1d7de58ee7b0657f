"""APGD as adversarial training uses it, and what every attack asks of a model: losses, logits,
gradients with respect to the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.attack.trajectory import Trajectory, choose_trajectory
from core.config import ConfigError


@contextmanager
def attacking(model: nn.Module) -> Iterator[nn.Module]:
    """Yields the model to attack: without its DDP wrapper, in evaluation mode, parameters frozen.

    Training modes and requires_grad are restored on exit, also after an error. While parameters are
    frozen, torch keeps no activations for their gradients (-37 % memory on ViT-S). The DDP wrapper
    would synchronise buffers and prepare its reducer on each forward.
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


def class_of(logits: Tensor) -> Tensor:
    """The predicted class of each image [B]; -1 if its largest logit is NaN (which argmax ranks
    highest) or infinite, as after an overflow. Other logits may be -inf: a class ruled out."""
    largest, seen = logits.max(1)
    return torch.where(largest.abs() < torch.inf, seen, -1)


def is_right(logits: Tensor, y: Tensor) -> Tensor:
    """Whether each image is classified as y [B]."""
    return class_of(logits) == y


def gradient_of(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy [B], its gradient with respect to x [B, C, H, W], and logits, all detached."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        logits = model(x)
        loss = F.cross_entropy(logits.float(), y, reduction="none")
        gradient = _slope(loss.sum(), x)
    return loss.detach(), gradient, logits.detach()


def rivalry_of(
    model: nn.Module, x: Tensor, own: Tensor, rival: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The lead [B], logit of class `rival` [B] minus logit of class `own` [B], its gradient with
    respect to x [B, C, H, W], and the logits in float32, all detached. A negative `own` stands for
    the predicted class, a negative `rival` for the strongest class other than `own`."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        logits = model(x).float()
    seen = logits.detach()
    own = torch.where(own < 0, seen.argmax(1), own)[:, None]
    others = seen.scatter(1, own, -torch.inf).argmax(1)
    rival = torch.where(rival < 0, others, rival)[:, None]
    lead = (seen.gather(1, rival) - seen.gather(1, own))[:, 0]
    # The derivative of `lead` with respect to the logits; autograd would take longer.
    sides = (
        torch.zeros_like(seen).scatter_(1, rival, 1).scatter_add_(1, own, -seen.new_ones(own.shape))
    )
    return lead, _slope(logits, x, sides), seen


def _slope(output: Tensor, x: Tensor, weights: Tensor | None = None) -> Tensor:
    """Gradient of the weighted sum of a model's outputs with respect to x, in the shape of x."""
    if not output.requires_grad:
        raise ConfigError(
            "attack: expected a model that torch can differentiate, got logits without a gradient "
            "(does it use torch.no_grad or detach?)"
        )
    (gradient,) = torch.autograd.grad(output, x, weights)
    return gradient


def check_range(x: Tensor) -> None:
    """Raises ConfigError unless all pixels [B, C, H, W] are in [0, 1]: attacks clip to this."""
    low, high = map(float, x.aminmax()) if x.numel() else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        raise ConfigError(
            f"attack: expected images in [0, 1] (normalisation belongs in the model), got pixels "
            f"from {low:g} to {high:g}"
        )


class Attacked(NamedTuple):
    """images: after the attack [B, C, H, W]. held: whether each [B] was classified correctly at
    every point evaluated, including the clean one. clean_logits: before the attack [B, classes]."""

    images: Tensor
    held: Tensor
    clean_logits: Tensor


def run_apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float | Tensor,
    steps: int,
    norm: str = "linf",
    trusted: bool = False,
    stop_after: int | None = None,
) -> Attacked:
    """Adversarial examples for training: the point of highest loss on each trajectory.

    x: [B, C, H, W] in [0, 1]; y: [B]; epsilon: one strength or one per image [B], in [0, 1] for
    l-inf. Costs steps + 1 forwards and `steps` input gradients; the first forward gives the clean
    logits. The result lies in the ball and in [0, 1].
    trusted: skip the check that x is in [0, 1], for which the host would wait for the GPU.
    stop_after: end the attack on an image this many steps after its first misclassified point, and
    return the point reached then (Zhang et al. 2020); later steps leave such images out.
    Raises ConfigError if a pixel is outside [0, 1], steps < 1 or the norm is unknown.
    """
    if steps < 1:
        raise ConfigError(f"attack: expected at least 1 step, got {steps}")
    if not trusted:
        check_range(x)
    kind = choose_trajectory(norm)
    if isinstance(epsilon, Tensor):
        strength = epsilon.to(x.device, x.dtype).expand(len(x))
    else:
        strength = torch.full((len(x),), epsilon, dtype=x.dtype, device=x.device)
    with attacking(model) as target:
        loss, gradient, clean_logits = gradient_of(target, x, y)
        path = kind.start(x, gradient, loss, strength, steps)
        held = is_right(clean_logits, y)
        if stop_after is not None:
            return Attacked(*_until_wrong(target, path, y, held, steps, stop_after), clean_logits)
        for _ in range(steps - 1):
            path.advance()
            loss, gradient, logits = gradient_of(target, path.point, y)
            path.observe(loss, gradient)
            held &= is_right(logits, y)
        path.advance()
        loss, logits = loss_of(target, path.point, y)
        path.improve(loss)
    return Attacked(path.best, held & is_right(logits, y), clean_logits)


def _until_wrong(
    model: nn.Module, path: Trajectory, y: Tensor, held: Tensor, steps: int, stop_after: int
) -> tuple[Tensor, Tensor]:
    """The last point of each attack [B, C, H, W], and whether all points before it were classified
    correctly [B]."""
    points, left = path.point.clone(), torch.where(held, steps, stop_after)
    rows = torch.arange(len(y), device=y.device)
    for step in range(steps):
        going = (left[rows] > 0).nonzero()[:, 0]
        if not len(going):
            break
        path.keep(going)
        rows = rows[going]
        path.advance()
        points[rows] = path.point
        left[rows] -= 1
        if step < steps - 1:
            loss, gradient, logits = gradient_of(model, path.point, y[rows])
            path.observe(loss, gradient)
            # `observe` may send a row back to its best point; these logits are of the point before
            # that.
            broken = held[rows] & ~is_right(logits, y[rows])
            held[rows[broken]] = False
            left[rows[broken]] = stop_after
    return points, held
