"""What a run needs on this machine besides its config: image folders and local checkpoints.

Torch-free, so that launching finds what is missing before anything is submitted.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from core.config import ConfigError, RunConfig
from core.datasets.entry import entries
from core.registry import PROCEDURAL, SYNTHETIC
from core.rundir import Store

SPLITS = ("train", "val", "test")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")


def is_drawn(dataset: str) -> bool:
    """Whether a dataset is drawn in memory and needs nothing on disk."""
    return dataset in PROCEDURAL + SYNTHETIC


def dataset_folder(dataset: str, store: Store) -> Path:
    """A name lies in the store's data folder; anything with a '/' is a path."""
    path = Path(dataset).expanduser()
    return path if "/" in dataset else store.data / path


def is_own(dataset: str, size: int, store: Store) -> bool:
    """Whether a known name stands for the user's own folder with train/, val/ and test/: no
    official release looks like that. Prepared arrays of the release win."""
    from core.datasets import arrays  # as everywhere here: numpy is not needed for most commands

    folder = store.data / dataset
    return not arrays.place(dataset, size, store).is_dir() and all(
        (folder / split).is_dir() for split in SPLITS
    )


def image_files(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """split -> class -> image files, all sorted.

    Raises ConfigError where a split is missing or empty or its classes are not those of train.
    """
    files = {split: _classes(folder, split) for split in SPLITS}
    expected = files["train"]
    for split in SPLITS:
        differing = sorted(set(expected) ^ set(files[split]))
        if differing:
            side = "only there" if differing[0] in files[split] else "missing there"
            raise ConfigError(
                f"{folder / split}: expected the {len(expected)} class folders of train, "
                f"'{differing[0]}' is {side} ({len(differing)} differ)"
            )
        if not any(files[split].values()):
            raise ConfigError(f"{folder / split}: expected images, found none")
    return files


def _classes(folder: Path, split: str) -> dict[str, list[Path]]:
    path = folder / split
    if not path.is_dir():
        have = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        found = ", ".join(have[:6]) or "nothing"
        raise ConfigError(
            f"{path}: no such folder (expected {folder}/{{train,val,test}}/<class>/, found {found})"
        )
    names = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
    return {name: _images(path / name) for name in names}


def _images(folder: Path) -> list[Path]:
    names = sorted(os.listdir(folder))
    return [folder / name for name in names if name.lower().endswith(EXTENSIONS)]


def weights_file(name: str, store: Store) -> Path:
    """The checkpoint a config names: <root>/weights/<name>, else a path. Raises ConfigError."""
    for path in (store.weights / name, Path(name).expanduser()):
        if path.is_file():
            return path
    have = sorted(p.relative_to(store.weights) for p in store.weights.rglob("*.pt"))
    listed = ", ".join(map(str, have[:6])) or "none"
    raise ConfigError(f"weights '{name}': no such file (in {store.weights}: {listed})")


def _check_dataset(dataset: str, size: int, store: Store) -> None:
    """Raises ConfigError where a run could not load its dataset (images are not opened)."""
    if dataset not in entries() or is_own(dataset, size, store):
        image_files(dataset_folder(dataset, store))
        return
    from core.datasets import arrays
    from core.datasets.read import read

    prepared = arrays.place(dataset, size, store)
    if prepared.is_dir():
        arrays.describe(prepared, entries()[dataset])
    else:
        read(dataset, store.data / dataset, entries()[dataset])


def missing(configs: Iterable[RunConfig], store: Store) -> list[str]:
    """One line per dataset or checkpoint that these runs need and this machine lacks."""
    configs = list(configs)
    problems = []
    for dataset, size in dict.fromkeys((c.dataset, c.image_size) for c in configs):
        if not is_drawn(dataset):
            try:
                _check_dataset(dataset, size, store)
            except ConfigError as error:
                problems.append(f"dataset {dataset}: {error}")
    for weights in dict.fromkeys(config.weights for config in configs):
        if weights not in ("pretrained", "random"):
            try:
                weights_file(weights, store)
            except ConfigError as error:
                problems.append(str(error))
    return problems
