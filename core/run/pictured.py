"""Images under attack as the networks of runs see them: pixels and predictions, to look at."""

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
"""Images attacked at once: there are few, and the machine may be a laptop."""


class Images(NamedTuple):
    """pixels: uint8 [N, 3, H, W]; labels [N]; names: of classes, [] if they have only numbers."""

    pixels: Tensor
    labels: Tensor
    names: Sequence[str]


class Seen(NamedTuple):
    """N images under attacks of S strengths. predicted: classes [1 + S, N], clean ones first;
    attacked: float32 [S, N, 3, H, W] in [0, 1]."""

    predicted: NDArray[Any]
    attacked: NDArray[Any]


def images_of(run: RunDir, store: Store, split: str, places: Sequence[int]) -> Images:
    """The images at these places of a split, as the run was judged on them. Raises ConfigError if
    its dataset is not here, or has fewer."""
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
    """Attack images by APGD at each strength, which ascend, on the machine's device. An image that
    a smaller strength broke stays as that left it if the larger one does not break it: balls nest.
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
