"""Adversarial examples of any classifier: `epsweep.attack`."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor, nn

from core.attack.apgd import attacking, check_range, gradient_of, is_right, loss_of
from core.attack.trajectory import choose_trajectory
from core.config import ConfigError, Strength, nearest
from core.config.strength import NORMS
from core.errors import first_line
from core.machine.runtime import judging


def attack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float | str | Strength | Tensor,
    norm: str = "linf",
    steps: int = 10,
) -> Tensor:
    """Adversarial examples by APGD on the cross-entropy (Croce and Hein 2020, Algorithm 1).

    model: maps images [B, C, H, W] in [0, 1] to logits [B, classes], with normalisation inside. It
    is attacked in evaluation mode; modes and requires_grad are restored. x: floats in [0, 1]; y:
    true labels [B], int64, both on the model's device. epsilon: radius of the ball, '4/255' or a
    number, or a tensor with one per image [B]; in [0, 1] for norm 'linf', at least 0 for 'l2' and
    'l1'. steps: number of gradients; it takes one forward more.

    Returns images of the shape of x, in the ball and in [0, 1]: for each image, the misclassified
    point of largest loss on its trajectory, or the point of largest loss if none is misclassified.
    Hence `evaluate` counts `model(adversarial).argmax(1) == y` at a single strength. Deterministic.
    Raises ConfigError if the type, shape, range or device of an input is not as above, or the model
    fails on x.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    >>> x, y = torch.full((1, 3, 1, 1), 0.5), torch.tensor([0])
    >>> adversarial = attack(model, x, y, epsilon="8/255", steps=5)
    >>> bool((adversarial - x).abs().max() <= 8 / 255 + 1e-6)
    True
    """
    check_count("steps", steps)
    if norm not in NORMS:
        raise ConfigError(f"norm: unknown norm '{norm}'{nearest(str(norm), NORMS)}")
    check_module(model)
    check_batch(x, y)
    radius = _radius(epsilon, norm, x)
    if not len(x):
        return x.clone()
    with attacking(model) as target, judging():
        check_model(target, x, y)
        loss, gradient, logits = gradient_of(target, x, y)
        best, highest, broken = x.clone(), loss.clone(), ~is_right(logits, y)

        def keep(point: Tensor, loss: Tensor, logits: Tensor) -> None:
            wrong = ~is_right(logits, y)
            better = (wrong & ~broken) | ((wrong == broken) & (loss > highest))
            best[better], highest[better] = point[better], loss[better]
            broken.logical_or_(wrong)

        path = choose_trajectory(norm).start(x, gradient, loss, radius, steps)
        for _ in range(steps - 1):
            path.advance()
            loss, gradient, logits = gradient_of(target, path.point, y)
            keep(path.point, loss, logits)
            path.observe(loss, gradient)
        path.advance()
        keep(path.point, *loss_of(target, path.point, y))
    return best


def check_count(name: str, count: int) -> None:
    """Raises ConfigError unless `count` is a whole number of at least 1."""
    if not isinstance(count, Integral) or count < 1:
        raise ConfigError(f"{name}: expected a whole number of at least 1, got {count!r}")


def check_module(model: nn.Module) -> None:
    """Raises ConfigError for anything but a module."""
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model: expected a torch.nn.Module, got {kind_of(model)}")


def check_batch(x: Tensor, y: Tensor) -> None:
    """Raises ConfigError unless x is float images [B, C, H, W] in [0, 1] and y int64 labels [B] on
    the same device."""
    if not isinstance(x, Tensor) or x.ndim != 4 or not x.is_floating_point():
        raise ConfigError(f"x: expected a float tensor [B, C, H, W], got {kind_of(x)}")
    if not isinstance(y, Tensor) or y.shape != (len(x),) or y.dtype != torch.long:
        raise ConfigError(f"y: expected an int64 tensor [{len(x)}], got {kind_of(y)}")
    if y.device != x.device:
        raise ConfigError(f"y: expected a tensor on {x.device}, like x, got one on {y.device}")
    check_range(x)


def check_model(model: nn.Module, x: Tensor, y: Tensor) -> int:
    """The number of classes of a model, which is in evaluation mode; x must not be empty. Raises
    ConfigError unless it is on the device of x, maps x to logits [B, classes], and has a class for
    every label."""
    where = next((parameter.device for parameter in model.parameters()), x.device)
    if where != x.device:
        raise ConfigError(f"x: expected a tensor on {where}, like the model, got one on {x.device}")
    try:
        with torch.no_grad():
            logits = model(x[:1])
    except RuntimeError as error:
        why = f"fails on images {kind_of(x)}: {first_line(error)}"
        raise ConfigError(f"model: {why}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 1:
        raise ConfigError(
            f"model: expected logits [1, classes] for one image, got {kind_of(logits)}"
        )
    low, high = map(int, y.aminmax())
    if low < 0 or high >= logits.shape[1]:
        raise ConfigError(
            f"y: expected labels from 0 to {logits.shape[1] - 1}, got {low if low < 0 else high}"
        )
    return int(logits.shape[1])


def _radius(epsilon: float | str | Strength | Tensor, norm: str, x: Tensor) -> Tensor:
    """The strength for each image [B]. Raises ConfigError."""
    if isinstance(epsilon, Tensor):
        radius = epsilon.detach().to(x.device, x.dtype)
        if radius.shape not in ((), (len(x),)):
            raise ConfigError(
                f"epsilon: expected one number or a tensor [{len(x)}], got {kind_of(epsilon)}"
            )
        for number in radius.unique().tolist():
            _parse(number, norm)
        return radius.expand(len(x))
    return torch.full((len(x),), float(_parse(epsilon, norm)), dtype=x.dtype, device=x.device)


def _parse(epsilon: object, norm: str) -> Strength:
    try:
        return Strength.parse(epsilon, norm)  # type: ignore[arg-type]  # checked by the caller
    except ValueError as error:
        raise ConfigError(f"epsilon: {error}") from None


def kind_of(value: object) -> str:
    """'float32 [4, 3, 8, 8]' for a tensor, else the name of the type."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__
