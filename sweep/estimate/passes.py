"""How often a run passes an image through its network: it follows from its config, for training
exactly. The unit is a forward; a backward to the weights costs two, one to the image alone one.

Torch-free: `sweep.estimate.cost` asks this for every run of a plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, assert_never

from core.config import ConfigError, EvalConfig, RunConfig
from core.config.datasets import entries
from core.config.parts import Protocol
from core.config.registry import backbone
from core.data import inputs
from core.datasets.own import image_files
from core.store.folders import Store
from core.training import objectives, schedules

UNATTACKED, ATTACKED = (0.1, 0.02), (0.5, 0.33)
"""By whether training ever attacks: the share of validation images that are attacked to the last
step, and the share of (test image, strength) pairs that are. Guesses near the paper's accuracies,
unlike all else here."""
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
    evaluations: tuple[float, ...]
    """One by one."""

    @property
    def evaluate(self) -> float:
        return sum(self.evaluations)


def count_passes(
    config: RunConfig, evals: Sequence[EvalConfig], sizes: Mapping[str, int]
) -> Passes:
    """The passes of a run on a dataset with so many images per split."""
    step, attacked = _step(config.protocol), schedules.make(config).attacked_epochs(config.epochs)
    broken = ATTACKED if attacked else UNATTACKED
    # n gradients with respect to the image and n + 1 forwards, n of them those of the gradients.
    attack = 2 * config.attack.steps + 1 + step * objectives.make(config.objective).extra_forwards
    train = sizes["train"] - sizes["train"] % min(config.batch, sizes["train"])
    looked = min(config.validation.images or sizes["val"], sizes["val"])
    validate = sizes["val"] + looked * (2 + broken[0] * 2 * config.validation.steps)
    fit = train * (config.epochs * step + attacked * attack) + config.epochs * validate
    counts = [min(item.images or sizes[item.split], sizes[item.split]) for item in evals]
    tried = tuple(item.passes(n, broken[1]) for item, n in zip(evals, counts, strict=True))
    return Passes(fit, tried)


def _step(protocol: Protocol) -> int:
    """Passes of a training step by what it trains: no gradients of weights that are frozen."""
    match protocol:
        case "full":
            return 3
        case "lora":
            return 2
        case "linear":
            return 1
        case _:
            assert_never(protocol)


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
