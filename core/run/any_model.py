"""The evaluations of runs, for any classifier and any images: `epsweep.evaluate`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from core.attack.apgd import attacking, check_range
from core.attack.examples import check_count, check_model, check_module, kind_of
from core.config import ConfigError, EvalConfig
from core.data.splits import FloatSplit, Split
from core.evaluation import kinds
from core.evaluation.measured import Context
from core.machine.runtime import judging
from core.run.measure import fitting
from core.store.records import ResultRow


@dataclass(frozen=True)
class Accuracies:
    """Result of an evaluation."""

    n: int
    """Number of images."""
    rows: list[ResultRow]
    """One per strength, or per type of corruption: attack, norm, epsilon, n, correct (counts)."""
    expected: float | None
    """Expected accuracy over the strengths, in [0, 1]; None if there are fewer than two."""
    arrays: dict[str, NDArray[Any]]
    """Per image, in the order of the data: `critical`, the index of the smallest strength that
    breaks it (0: wrong without attack; number of strengths: none breaks it), and `taken`, the class
    it is taken for from there on (its label if none breaks it); or `right` [n, types]."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The metrics that a user-defined kind of evaluation declares."""
    zero_gradient_images: int = 0
    """Right images whose gradient is zero or not finite: their robustness cannot be trusted."""

    @property
    def accuracy(self) -> dict[str, float]:
        """'4/255' (or the type of corruption) -> accuracy in [0, 1]."""
        return {row.get("type", row["epsilon"]): row["correct"] / row["n"] for row in self.rows}


def evaluate(
    model: nn.Module,
    data: Any,
    *,
    batch: int = 128,
    **evaluation: Any,
) -> Accuracies:
    """Evaluate a model like the model of a run: same code, same numbers.

    model: maps images [B, C, H, W] in [0, 1] to logits [B, classes]. It is evaluated on its device,
    in float32 and in evaluation mode; modes and requires_grad are restored. data: a pair (images
    [N, C, H, W], labels [N]) of tensors or arrays, or an iterable of such batches (a DataLoader),
    all held in memory: images as uint8 or as floats in [0, 1], labels integers from 0. batch:
    images per forward, halved whenever memory runs out. The other arguments are those of an
    evaluation in a grid (docs/evaluations.md): attack='apgd-ce', norm='linf', steps=10,
    epsilons='0..16/255' or ['0', '4/255'], mode='exact', images (only the first ones), ...

    Raises ConfigError if data, model or an argument is invalid, or the model fails on an image.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    >>> data = torch.full((5, 3, 2, 2), 0.5), torch.zeros(5, dtype=torch.long)
    >>> found = evaluate(model, data, epsilons=["0", "4/255"], steps=2)
    >>> found.n, [*found.accuracy]
    (5, ['0', '4/255'])

    The distance to the nearest adversarial image found, one number per image, by FMN:

    >>> found = evaluate(model, data, attack="fmn", norm="l2", epsilons=[0, 1], steps=10)
    >>> found.arrays["distance"].shape
    (5,)
    """
    check_count("batch", batch)
    check_module(model)
    if "split" in evaluation:
        raise ConfigError("split: does not apply to data that you pass, remove it")
    plain = {key: [*item] if isinstance(item, tuple) else item for key, item in evaluation.items()}
    asked = EvalConfig.parse(plain, where="evaluate")
    split = _split(data).first(asked.images)
    if isinstance(split, FloatSplit) and not asked.takes_floats:
        raise ConfigError(f"attack {asked.attack}: expected images as uint8, got floats")
    parameter = next(model.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    with attacking(model) as target:
        x, _ = split.batch(torch.arange(1), device)
        classes = check_model(target, x, split.labels.to(device))
    if problem := asked.lacking() or asked.problem(split.images.shape[-1], classes):
        raise ConfigError(problem)
    with TemporaryDirectory() as folder, judging():
        context = Context(batch=batch, device=device, part=Path(folder) / "search.part")
        found = fitting(partial(kinds.measure, asked, model, split), context)
    return Accuracies(
        len(split),
        [*found.rows],
        found.expected,
        dict(found.arrays),
        dict(found.metrics),
        int(found.extras.get("zero_gradient_images", 0)),
    )


def _split(data: Any) -> Split:
    """Images and labels in memory. Raises ConfigError."""
    if isinstance(data, Split):
        return data
    if isinstance(data, tuple | list) and len(data) == 2 and hasattr(data[0], "shape"):
        images, labels = map(_tensor, data)
    elif isinstance(data, Iterable) and not isinstance(data, str | dict):
        batches = [_batch(item) for item in data]
        if not batches:
            raise ConfigError("data: expected at least one batch of images and labels, got none")
        shapes = {str([*images.shape[1:]]) for images, _ in batches}
        if len(shapes) > 1:
            raise ConfigError(f"data: expected images of one shape, got {' and '.join(shapes)}")
        images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    else:
        kind = type(data).__name__
        raise ConfigError(f"data: expected (images, labels) or an iterable of them, got {kind}")
    if labels.dtype.is_floating_point or labels.dtype == torch.bool or labels.ndim != 1:
        kind = str(labels.dtype).removeprefix("torch.")
        raise ConfigError(f"labels: expected integers [N], got {kind} {list(labels.shape)}")
    if not len(images):
        raise ConfigError("data: expected at least one image, got none")
    labels = labels.long()
    if images.is_floating_point():
        check_range(images)
        return FloatSplit(images, labels)
    return Split(images, labels)


def _batch(item: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of a loader; what follows images and labels in it is ignored."""
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise ConfigError(f"data: expected batches (images, labels), got {kind_of(item)}")
    images, labels = map(_tensor, item[:2])
    if images.ndim != 4 or labels.ndim != 1:
        got = f"{kind_of(images)} and {kind_of(labels)}"
        raise ConfigError(
            f"data: expected batches of images [B, C, H, W] and labels [B], got {got}"
        )
    return images, labels


def _tensor(value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    try:
        return torch.from_numpy(np.array(value))
    except TypeError as error:
        raise ConfigError(f"data: expected tensors or arrays of numbers ({error})") from None
