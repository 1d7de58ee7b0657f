"""Attacks images with the networks of runs, for people to look at: pixels and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from core.attack.apgd import loss_of
from core.attack.examples import attack
from core.config import ConfigError, RunConfig, Strength
from core.data import splits
from core.data.inputs import class_names
from core.machine.runtime import device, judging
from core.model.network import Classifier
from core.store.folders import RunDir, Store

BATCH = 32
"""Images attacked at once: few, as the machine may be a laptop."""


class Images(NamedTuple):
    """pixels: uint8 [N, 3, H, W]; labels: [N]; names: of the classes, [] if they are only
    numbered."""

    pixels: Tensor
    labels: Tensor
    names: Sequence[str]


class Seen(NamedTuple):
    """N images under attacks of S strengths. predicted: classes [1 + S, N], clean ones first;
    attacked: float32 [S, N, 3, H, W] in [0, 1]."""

    predicted: NDArray[Any]
    attacked: NDArray[Any]


def images_of(run: RunDir, store: Store, split: str, places: Sequence[int]) -> Images:
    """The images at these indices of a split, exactly as in the run's evaluations. Raises
    ConfigError if the dataset is not on this machine or has fewer images."""
    config = RunConfig.parse(run.read_config(), where=str(run.config))
    part = getattr(splits.load(config, store), split)
    if max(places, default=-1) >= len(part):
        raise ConfigError(
            f"{run.id}: expected {max(places) + 1} images in split {split} of {config.dataset}, "
            f"got {len(part)}"
        )
    index = torch.tensor([*places], dtype=torch.long)
    names = class_names(config.dataset, config.image_size, store)
    return Images(part.images[index], part.labels[index], names)


def see(model: Classifier, images: Images, strengths: Sequence[Strength], *, steps: int) -> Seen:
    """Attack images by APGD at each of the ascending strengths, on the machine's device. If a
    strength does not break an image that a smaller one broke, the smaller one's result is kept,
    since it lies in the larger ball, too.
    """
    on = device()
    model.to(on)
    seen = [
        _seen(model, x.to(on).float() / 255, y.to(on), strengths, steps)
        for x, y in zip(images.pixels.split(BATCH), images.labels.split(BATCH), strict=True)
    ]
    return Seen(
        torch.cat([predicted for predicted, _ in seen], 1).numpy(),
        torch.cat([attacked for _, attacked in seen], 1).numpy(),
    )


def _seen(
    model: Classifier, x: Tensor, y: Tensor, strengths: Sequence[Strength], steps: int
) -> tuple[Tensor, Tensor]:
    points, predicted = [], []
    with judging():
        predicted.append(loss_of(model, x, y)[1].argmax(1))
        point, now = x, predicted[0]
        for strength in strengths:
            found = attack(model, x, y, epsilon=strength, norm=strength.norm, steps=steps)
            after = loss_of(model, found, y)[1].argmax(1)
            held = (now != y) & (after == y)
            point = torch.where(held[:, None, None, None], point, found)
            now = torch.where(held, now, after)
            points.append(point)
            predicted.append(now)
    return torch.stack(predicted).cpu(), torch.stack(points).cpu()
