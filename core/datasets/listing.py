"""A release as its reader returns it: classes and, per official part, image files and labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.config import ConfigError
from core.datasets.own import is_plain

Item = tuple[str, int]
"""A file's path below the root, and its label."""


@dataclass(frozen=True)
class Listing:
    """classes: names, indexed by label. parts: official part -> items in the official order."""

    classes: Sequence[str]
    parts: dict[str, list[Item]]


def file_in(root: Path, *names: str) -> Path:
    """The first of `names` that is a file below root. Raises ConfigError naming the first."""
    for name in names:
        if (root / name).is_file():
            return root / name
    raise ConfigError(f"{root / names[0]}: no such file (a partial extraction?)")


def labelled(names: Iterable[str], labels: Iterable[int], classes: int, where: Path) -> list[Item]:
    """Items from file names and labels that count from 1. Raises ConfigError if a label is not in
    1..classes. where: the file that messages name."""
    items = [(name, int(label) - 1) for name, label in zip(names, labels, strict=True)]
    for name, label in items:
        if not 0 <= label < classes:
            raise ConfigError(f"{where}: {name}: expected a class in 1..{classes}, got {label + 1}")
    return items


def absent(root: Path, items: Iterable[Item]) -> list[str]:
    """The paths of items that do not exist as files; lists each folder once."""
    seen: dict[str, set[str]] = {}
    missing = []
    for path, _ in items:
        folder, _, name = path.rpartition("/")
        if folder not in seen:
            place = root / folder
            there = os.scandir(place) if place.is_dir() else ()
            seen[folder] = {entry.name for entry in there if is_plain(entry)}
        if name not in seen[folder]:
            missing.append(path)
    return missing
