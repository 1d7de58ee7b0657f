"""Small configs, networks and datasets for the tests of core."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.config import RunConfig
from core.data import drawn
from core.data.splits import Dataset, Split
from core.store.folders import Store
from core.training.trainer import Trainer

CPU = torch.device("cpu")
CLASSES = 8


def config(**fields: Any) -> RunConfig:
    """A run of seconds: noise images of 16 pixels, two epochs, attacks of two steps."""
    base: dict[str, Any] = {
        "backbone": "test_vit",
        "weights": "random",
        "dataset": "fake",
        "image_size": 16,
        "epochs": 2,
        "batch": 10,
        "epsilon_g": "8/255",
        "schedule": "fix",
        "optim": {"lr": 1e-3},
        "attack": {"steps": 2},
        "validation": {"steps": 2, "images": 10},
    }
    return RunConfig.parse(base | fields)


def repeatable(rows: list[Any]) -> list[dict[str, Any]]:
    """Rows of metrics, without what the clock says."""
    return [
        {key: value for key, value in row.items() if key not in ("seconds", "images_per_s")}
        for row in rows
    ]


def noise(images: int, *, classes: int = 10, size: int = 8, seed: int = 0) -> Split:
    """Random images around one mean colour per class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % classes
    colours = torch.rand(classes, 3, 1, 1, generator=torch.Generator().manual_seed(1))
    pixels = colours[labels] + 0.1 * torch.randn(images, 3, size, size, generator=generator)
    return Split(pixels.clamp(0, 1).mul(255).byte(), labels)


def dataset(train: int = 40, val: int = 20, *, classes: int = 10) -> Dataset:
    """Three splits of 8-pixel images."""
    splits = [noise(n, classes=classes, seed=s) for s, n in enumerate((train, val, val))]
    return Dataset("tiny", classes, *splits)


def net(classes: int = 10, *, size: int = 8, norm: str = "batch", seed: int = 0) -> nn.Sequential:
    """Two convolutions with a norm (batch, or group: no statistics over images), dropout, head."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8) if norm == "batch" else nn.GroupNorm(2, 8),
            nn.SiLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Dropout(0.2 if norm == "batch" else 0.0),
            nn.Linear(8 * (size // 2) ** 2, classes),
        )


class Scaled(nn.Module):
    """A network whose inputs are normalised and whose logits are scaled."""

    def __init__(self, inner: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.inner, self.scale = inner, scale

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner((x - 0.5) / 0.075)
        return logits * self.scale


class Wavy(nn.Module):
    """Sums of plane waves: a landscape of many hills, on which every rule of an attack comes into
    play. Computes in float64."""

    def __init__(self, seed: int, *, pixels: int = 48, classes: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.waves = nn.Parameter(torch.randn(pixels, 40, generator=generator).double() * 1.5)
        self.heights = nn.Parameter(torch.randn(40, classes, generator=generator).double())

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = (x.double().flatten(1) @ self.waves).sin() @ self.heights
        return logits


class Pocket(nn.Module):
    """Survives attacks at every strength but the one at which it breaks: the brightness of the
    lower half decides, and the attack raises it. Class 1 is found from 1/255 to 2/255 above grey if
    the upper half is bright; a larger first step jumps over that, and beyond it the loss rises.
    """

    def forward(self, x: Tensor) -> Tensor:
        upper, lower = x.flatten(2).mean(1).tensor_split(2, dim=1)
        above = 255 * lower.mean(1) - 128
        deep = 3.0 * (upper.mean(1) > 0.5) * (-(((above - 1.5) / 0.2) ** 2)).exp()
        return torch.stack([2 - 0.05 * above - deep, torch.zeros_like(above)], dim=1)


def pockets(images: int, share: float) -> Split:
    """Grey images of class 0; this share of them, spread evenly, has a pocket (see Pocket)."""
    pixels = torch.full((images, 3, 4, 4), 128, dtype=torch.uint8)
    bright = (torch.arange(images) * share).int().diff(append=torch.tensor([int(images * share)]))
    pixels[:, :, :2] = torch.where(bright > 0, 224, 32).view(-1, 1, 1, 1).byte()
    return Split(pixels, torch.zeros(images, dtype=torch.long))


@dataclass(frozen=True)
class Trained:
    """A network that is 95 % right on clean test images and 0 % at 8/255, and those images."""

    net: Scaled
    test: Split

    def batch(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        return self.test.batch(torch.arange(first, first + count), CPU)


def _cut(split: str) -> Split:
    images, labels = drawn.draw("plane", split, seed=0)
    rows = labels < CLASSES
    return Split(images[rows], labels[rows])


@cache
def train_one() -> Trained:
    """Adversarial training (one random step, growing strength) on eight kinds of aircraft, 2 s."""
    split, width, epochs, batch = _cut("train"), 12, 15, 40
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Scaled(
            nn.Sequential(
                *(nn.Conv2d(3, width, 5, 2, 2), nn.SiLU(), nn.GroupNorm(2, width)),
                *(nn.Conv2d(width, 24, 3, 2, 1), nn.SiLU(), nn.GroupNorm(2, 24)),
                *(nn.Conv2d(24, 24, 3, 2, 1), nn.SiLU(), nn.Flatten()),
                nn.Linear(24 * 16, CLASSES),
            )
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
        for epoch in range(epochs):
            epsilon = 2 / 255 * epoch / (epochs - 1)
            for rows in torch.randperm(len(split)).split(batch):
                x, y = split.batch(rows, CPU)
                noisy = (x + torch.empty_like(x).uniform_(-epsilon, epsilon)).requires_grad_()
                (slope,) = torch.autograd.grad(F.cross_entropy(model(noisy), y), noisy)
                delta = noisy.detach() - x + 1.25 * epsilon * slope.sign()
                loss = F.cross_entropy(model(x + delta.clamp(-epsilon, epsilon)), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return Trained(model.eval(), _cut("test"))


def trainer(
    store: Store,
    config: RunConfig,
    *,
    model: nn.Module | None = None,
    data: Dataset | None = None,
    **options: Any,
) -> Trainer:
    """The trainer of a run, by default of `net()` on `dataset()`."""
    model, data = model or net(), data or dataset()
    return Trainer(config, data, model, store.run(config.id), device=CPU, **options)
