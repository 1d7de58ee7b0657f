"""How often a run passes an image through its network: it follows from its config, for training
exactly. The unit is a forward; a backward to the weights costs two, one to the image alone one.

Torch-free: `sweep.estimate.cost` asks this for every run of a plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from core.config import ConfigError, EvalConfig, RunConfig
from core.config.datasets import entries
from core.config.registry import backbone
from core.data import inputs
from core.datasets.own import image_files
from core.store.folders import Store
from core.training import schedules

STEP = {"full": 3, "lora": 2, "linear": 1}
"""Passes of a training step by what it trains: no gradients of weights that are frozen."""
SURVIVAL = {"standard": (0.1, 0.02)}
"""By setting: the share of validation images that are attacked to the last step, and the share of
(test image, strength) pairs that are. Guesses near the paper's accuracies, unlike all else here."""
OTHERS = (0.5, 0.33)
FAST = 1 / 6
"""Cost of a fast evaluation against an exact one, without its audit."""
AUDITED = 300
"""Images that the audit of a fast evaluation takes at most."""
AUTOATTACK = 9_700
"""Passes of AutoAttack standard on an image that withstands it: APGD-CE 100 steps, targeted APGD
and FAB 100 steps for each of 9 classes, 5,000 queries of Square."""
CORRUPTIONS = 11
"""Types of them."""
DRAWN = {
    "fake": {"train": 200, "val": 60, "test": 60},
    "glyph": {"train": 1280, "val": 512, "test": 512},
    "plane": {"train": 1280, "val": 512, "test": 512},
    "source": {"train": 7680, "val": 640, "test": 640},
}


class Passes(NamedTuple):
    """Forwards of one image, in a whole run."""

    fit: float
    """Training, and validation after every epoch."""
    evaluate: float


def attacked_epochs(config: RunConfig) -> int:
    """Epochs with an attack; of `auto`, which finds its start, all but its waiting time."""
    if config.schedule.kind == "auto":
        return max(0, config.epochs - config.schedule.patience)
    schedule = schedules.make(config)
    return sum(schedule.alpha(epoch) > 0 for epoch in range(config.epochs))


def passes(config: RunConfig, evals: Sequence[EvalConfig], sizes: Mapping[str, int]) -> Passes:
    """The passes of a run on a dataset with so many images per split."""
    broken = SURVIVAL.get(config.schedule.kind, OTHERS)
    step, attacked = STEP[config.protocol], attacked_epochs(config)
    # n gradients with respect to the image and n + 1 forwards, n of them those of the gradients.
    attack = 2 * config.attack.steps + 1 + (step if config.objective.kind == "trades" else 0)
    train = sizes["train"] - sizes["train"] % min(config.batch, sizes["train"])
    looked = min(config.validation.images or sizes["val"], sizes["val"])
    validate = sizes["val"] + looked * (2 + broken[0] * 2 * config.validation.steps)
    fit = train * (config.epochs * step + attacked * attack) + config.epochs * validate
    return Passes(fit, sum(_evaluate(item, sizes[item.split], broken[1]) for item in evals))


def _evaluate(item: EvalConfig, images: int, share: float) -> float:
    images = min(item.images or images, images)
    if item.attack == "corruptions":
        return images * (CORRUPTIONS if item.per_image == "all" else 1)
    tried = share * (len(item.epsilons) - 1)
    steps = 2 * item.steps + (AUTOATTACK if item.attack == "autoattack" else 0)
    exactly = images * FAST + min(images, AUDITED) if item.mode == "fast" else images
    return exactly * (2 + tried * steps)


def gflops(config: RunConfig) -> float | None:
    """Of a forward of one image at the run's size; nearly all of it grows with the area."""
    known = backbone(config.backbone).gflops
    return known * (config.image_size / 224) ** 2 if known else None


def sizes_of(dataset: str, store: Store) -> Mapping[str, int] | None:
    """Images per split, None where the dataset is an unreadable folder."""
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
