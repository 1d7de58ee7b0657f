"""How often a run passes images through its network, computed from its config. The unit is one
forward pass of one image; a backward pass to the weights costs two, one to the image alone costs
one. The count is exact for training, a guess for evaluations.

Torch-free, as it is called for every run of a plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from core.config import ConfigError, EvalConfig, RunConfig
from core.config.datasets import entries
from core.config.parts import Protocol
from core.config.registry import backbone
from core.data import inputs
from core.datasets.own import image_files
from core.store.folders import Store
from core.training import objectives, schedules

UNATTACKED, ATTACKED = (0.1, 0.02), (0.5, 0.33)
"""For training without and with attacks: (share of validation images on which the attack does all
its steps, share of (test image, strength) pairs on which it does). Guesses, near the paper's
accuracies: an attack stops once it succeeds."""
STEP: Mapping[Protocol, int] = {"full": 3, "lora": 2, "linear": 1}
"""Passes of a training step: frozen weights need no gradients."""
DRAWN = {
    "fake": {"train": 200, "val": 60, "test": 60},
    "glyph": {"train": 1280, "val": 512, "test": 512},
    "plane": {"train": 1280, "val": 512, "test": 512},
    "source": {"train": 7680, "val": 640, "test": 640},
}


class Passes(NamedTuple):
    """Passes in a whole run, in units of one forward pass of one image."""

    fit: float
    """Training, and validation after every epoch."""
    evaluations: tuple[float, ...]
    """Those of each evaluation, in the order given."""

    @property
    def evaluate(self) -> float:
        return sum(self.evaluations)


def count_passes(
    config: RunConfig, evals: Sequence[EvalConfig], sizes: Mapping[str, int]
) -> Passes:
    """The passes of a run with these evaluations. sizes: split -> number of images."""
    step, attacked = STEP[config.protocol], schedules.make(config).attacked_epochs(config.epochs)
    broken = ATTACKED if attacked else UNATTACKED
    # n steps: n forward and n backward passes, and a last forward pass.
    attack = 2 * config.attack.steps + 1 + step * objectives.make(config.objective).extra_forwards
    train = sizes["train"] - sizes["train"] % min(config.batch, sizes["train"])
    looked = min(config.validation.images or sizes["val"], sizes["val"])
    validate = sizes["val"] + looked * (2 + broken[0] * 2 * config.validation.steps)
    fit = train * (config.epochs * step + attacked * attack) + config.epochs * validate
    counts = [min(item.images or sizes[item.split], sizes[item.split]) for item in evals]
    tried = tuple(item.passes(n, broken[1]) for item, n in zip(evals, counts, strict=True))
    return Passes(fit, tried)


def gflops(config: RunConfig) -> tuple[float, bool]:
    """GFLOPs of a forward pass of one image at the run's size, taken as proportional to its area,
    and whether those of the backbone are known; else they are counted as 1 at 224 pixels, which
    only allows comparing runs of that backbone."""
    known = backbone(config.backbone).gflops
    return (known or 1.0) * (config.image_size / 224) ** 2, bool(known)


def sizes_of(dataset: str, store: Store) -> Mapping[str, int] | None:
    """Split -> number of images; None if the dataset is a folder that cannot be read."""
    if dataset in DRAWN:
        return DRAWN[dataset]
    folder = inputs.dataset_folder(dataset, store)
    if dataset in entries() and not (folder / "train").is_dir():
        return entries()[dataset].splits
    try:
        files = image_files(folder)
    except (ConfigError, OSError):
        return None
    return {split: sum(map(len, classes.values())) for split, classes in files.items()}
