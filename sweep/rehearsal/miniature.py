"""Miniatures for `sweep dry-run`: runs shrunk to seconds, and datasets of a few generated images.

A miniature keeps the run's backbone, dataset, image size, objective, protocol, kind of schedule,
norm and precision, but has random weights, two batches and attacks of one step. Runs whose
miniatures would do the same share one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from core.config import Optim, RunConfig, Strength
from core.config.datasets import entries
from core.config.names import OF_RUN
from core.config.registry import backbone, backbones
from core.data import inputs
from core.datasets import miniature
from core.datasets.own import image_files
from core.errors import first_line
from core.store.folders import Store
from core.training import schedules
from sweep.grid import Run

BATCHES = 2
CLASSES, EACH = 3, 2
"""For folders of images: classes to generate if the folder is not here, and images per class."""


@dataclass(frozen=True)
class Rehearsal(Store):
    """A store that contains its own data folder, whatever EPSWEEP_DATA says."""

    @property
    def data(self) -> Path:
        return self.root / "data"


@dataclass
class Datasets:
    """The miniature datasets of a rehearsal. names: folder -> its miniature's path. broken: dataset
    -> why it could not be made."""

    names: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)


def shrink(run: Run, datasets: Datasets, parent: Run | None = None) -> Run:
    """The miniature of a run; runs that differ only in seed, strength, rates or length share it.
    parent: the miniature of the run's parent, if it has one."""
    config = run.config
    # Two batches in all: both in one epoch, or one in each of two epochs.
    epochs, shorter = schedules.make(config).rehearsed()
    changes = {
        "weights": f"{OF_RUN}{parent.id}" if parent else "random",
        "dataset": datasets.names.get(config.dataset, config.dataset),
        "schedule": config.schedule.model_copy(update=shorter),
        "epsilon_g": Strength(Fraction(2, 255), config.norm),
        "epochs": epochs,
        # A backbone outside the registry may have BatchNorm, which needs two images.
        "batch": 1 if config.backbone in backbones() else 2,
        "batchnorm_images": None,
        "optim": _optim(config.optim),
        "attack": {"steps": 1},
        "validation": {"steps": 1, "images": 1},
        "seed": 0,
    }
    data = {name: getattr(config, name) for name in type(config).model_fields} | changes
    if not config.schedule.attacks:
        del data["epsilon_g"]
    evals = dict.fromkeys(item.shrunk() for item in run.evals)
    return Run(RunConfig.model_validate(data), run.setting, tuple(evals))


def shrink_all(
    runs: Iterable[Run], known: Mapping[str, Run], datasets: Datasets
) -> list[tuple[Run, Run]]:
    """Runs and their miniatures, parents included. known: run id -> run, of the whole grid."""
    found: dict[str, tuple[Run, Run]] = {}

    def add(run: Run) -> Run:
        if run.id not in found:
            parent = add(known[run.config.parent]) if run.config.parent else None
            found[run.id] = run, shrink(run, datasets, parent)
        return found[run.id][1]

    for run in runs:
        add(run)
    return [*found.values()]


def _optim(optim: Optim) -> Optim:
    """Rates at which nothing diverges; separate ones for the head if the run has them."""
    rates = {"lr": 1e-4, "weight_decay": 1e-2, "head_lr": 1e-3, "head_weight_decay": 1e-3}
    changes = {n: v for n, v in rates.items() if getattr(optim, n) is not None}
    return optim.model_copy(update=changes | {"rate": Optim().rate})


def share(pairs: Sequence[tuple[Run, Run]]) -> list[tuple[Run, Run]]:
    """The pairs with fewer distinct miniatures: every backbone, every dataset, and every kind of
    run (loss, protocol, evaluations, ...) of every architecture still has at least one.

    Miniatures of prepared datasets are all alike, and without pretrained weights so are all
    backbones of an architecture.
    """
    kinds: dict[object, Run] = {}
    met = set[tuple[str, str]]()
    found = []
    for run, small in pairs:
        config = small.config
        names = {("backbone", config.backbone), ("dataset", config.dataset)}
        kind = _kind(config), small.evals
        if kind not in kinds or not names <= met:
            kinds.setdefault(kind, small)
            met |= names
            found.append((run, small))
        else:
            found.append((run, kinds[kind]))
    # The parent of a miniature is a miniature, too.
    needed = {small.config.parent for _, small in found}
    for _, small in reversed(pairs):
        needed |= {small.config.parent} if small.id in needed else set()
    both = zip(pairs, found, strict=True)
    return [(run, own if own.id in needed else other) for (run, own), (_, other) in both]


def _kind(config: RunConfig) -> RunConfig:
    """A miniature's config with its architecture in place of the backbone, and no dataset."""
    entry = backbone(config.backbone)
    architecture = f"{entry.timm.partition('.')[0]} {entry.group_norm or ''}"
    same = {"dataset": "", "backbone": architecture}
    return config.model_copy(update=same | ({"weights": OF_RUN} if config.parent else {}))


def furnish(runs: Iterable[Run], store: Store, rehearsal: Rehearsal) -> Datasets:
    """Generate the runs' datasets in the rehearsal, each in its release's format, and read and
    prepare them like releases."""
    made = Datasets()
    for name, size in dict.fromkeys((r.config.dataset, r.config.image_size) for r in runs):
        if inputs.is_drawn(name):
            continue
        try:
            if name not in entries() or inputs.is_own(name, size, store):
                if name not in made.names:
                    copy = rehearsal.data / "folders" / str(len(made.names))
                    made.names[name] = str(_folder(name, store, copy))
            else:
                release = rehearsal.root / "releases" / f"{name}-{size}"
                miniature.furnish(name, rehearsal, size, release)
        except Exception as error:  # readers may raise anything; reported as a finding
            made.broken[name] = f"{type(error).__name__}: {first_line(error)}"
    return made


def _folder(name: str, store: Store, below: Path) -> Path:
    """A folder in `below` with train/, val/ and test/ like the user's: links to some of its images,
    or generated images if it is not here."""
    own = inputs.dataset_folder(name, store)
    copy = below / own.name
    if not own.is_dir():
        miniature.write_folder(copy, classes=CLASSES, each=EACH)
        return copy
    for split, classes in image_files(own).items():
        for label, files in classes.items():
            (copy / split / label).mkdir(parents=True)
            for file in files[:EACH]:
                os.symlink(file.absolute(), copy / split / label / file.name)
    return copy
