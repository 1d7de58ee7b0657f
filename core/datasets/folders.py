"""Readers of releases with one folder per class: Caltech-256 and -101, UC Merced, ImageNette."""

from __future__ import annotations

from pathlib import Path

from core.config import ConfigError
from core.datasets.listing import Item, Listing
from core.datasets.own import class_folders, image_names


def _classes(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder (a partial extraction?)")
    return class_folders(folder)


def _images(root: Path, prefix: str, classes: list[str], suffix: str) -> list[Item]:
    """Images of every class folder below root/prefix; names sorted, stray files left out."""
    return [
        (f"{prefix}{name}/{file}", label)
        for label, name in enumerate(classes)
        for file in image_names(root / prefix / name, (suffix,))
    ]


def caltech256(root: Path) -> Listing:
    """256_ObjectCategories/<number>.<name>/*.jpg, the 257th being clutter."""
    classes = [name for name in _classes(root) if name[:3].isdecimal() and name[3:4] == "."]
    return Listing(classes, {"all": _images(root, "", classes, ".jpg")})


def caltech101(root: Path) -> Listing:
    """101_ObjectCategories/<name>/*.jpg without the background class."""
    classes = [name for name in _classes(root) if name != "BACKGROUND_Google"]
    return Listing(classes, {"all": _images(root, "", classes, ".jpg")})


def ucmerced(root: Path) -> Listing:
    """Images/<name>/*.tif."""
    classes = _classes(root)
    return Listing(classes, {"all": _images(root, "", classes, ".tif")})


def imagenette(root: Path) -> Listing:
    """train/ and val/ with the same ten WordNet ids; val is the official evaluation part."""
    classes = _classes(root / "train")
    if _classes(root / "val") != classes:
        raise ConfigError(f"{root / 'val'}: expected the class folders of {root / 'train'}")
    parts = {"train": "train/", "test": "val/"}
    return Listing(classes, {part: _images(root, p, classes, ".jpeg") for part, p in parts.items()})
