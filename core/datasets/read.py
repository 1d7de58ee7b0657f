"""Reads a release and checks its root, classes and counts, and that every listed image exists."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from core.config import ConfigError
from core.config.datasets import Entry
from core.datasets import folders, lists, matlab
from core.datasets.listing import Item, Listing, absent
from core.datasets.own import class_folders
from core.errors import counted

READERS: dict[str, Callable[[Path], Listing]] = {
    "aircraft": lists.aircraft,
    "caltech256": folders.caltech256,
    "cars": matlab.cars,
    "cub": lists.cub,
    "dogs": matlab.dogs,
    "imagenette": folders.imagenette,
    "caltech101": folders.caltech101,
    "flowers": matlab.flowers,
    "pets": lists.pets,
    "ucmerced": folders.ucmerced,
}
DEPTH = 3
"""How many levels below the given folder the root of a release may be."""


@dataclass(frozen=True)
class Contents:
    """A verified release: its root, class names, and train, val and test split as runs use them."""

    root: Path
    classes: tuple[str, ...]
    splits: dict[str, list[Item]]


def find_root(folder: Path, entry: Entry) -> Path | None:
    """The folder that holds the marks of a release: `folder`, or the closest one below it.

    Raises ConfigError if two on the same level hold them, such as two versions of the release.
    """
    for level in _levels(folder, DEPTH):
        roots = [path for path in level if _is_root(path, entry)]
        if len(roots) > 1:
            listed = ", ".join(map(str, roots))
            raise ConfigError(f"{folder}: expected one {entry.title}, found {listed}; name one")
        if roots:
            return roots[0]
    return None


def _is_root(folder: Path, entry: Entry) -> bool:
    return all((folder / mark).exists() for mark in entry.marks)


def _levels(folder: Path, depth: int) -> Iterator[list[Path]]:
    """[folder], then the visible folders in it, then those in them, and so on."""
    level = [folder]
    for _ in range(depth + 1):
        yield level
        level = [above / name for above in level for name in class_folders(above)]


def read_release(name: str, folder: Path, entry: Entry) -> Contents:
    """The release in `folder` or in a folder below it. Raises ConfigError, one line, if it is
    missing, another release, or incomplete."""
    if not folder.is_dir():
        raise ConfigError(
            f"{folder}: no such folder; run: sweep data prepare {name} --from ARCHIVE-OR-FOLDER"
        )
    root = find_root(folder, entry)
    if root is None:
        have = ", ".join(sorted(path.name for path in folder.iterdir())[:6]) or "nothing"
        marks = " and ".join(entry.marks)
        raise ConfigError(f"{folder}: expected {marks} in it or in a folder below, found {have}")
    listing = READERS[name](root)
    _check(root, listing, entry)
    from core.datasets.splits import divide  # imports numpy, not needed for the errors above

    return Contents(root, tuple(listing.classes), divide(listing.parts, entry))


def _check(root: Path, listing: Listing, entry: Entry) -> None:
    if len(listing.classes) != entry.classes:
        raise ConfigError(f"{root}: expected {entry.classes} classes, found {len(listing.classes)}")
    items = [item for part in listing.parts.values() for item in part]
    missing = absent(root, items)
    if missing:
        raise ConfigError(
            f"{root}: {len(missing)} of {len(items)} listed images are missing, "
            f"the first is {missing[0]} (a partial extraction?)"
        )
    found = {part: len(part_items) for part, part_items in listing.parts.items()}
    if found != entry.parts:
        raise ConfigError(f"{root}: expected {_counts(entry.parts)}, found {_counts(found)}")
    empty = set(range(entry.classes)) - {label for _, label in items}
    if empty:
        raise ConfigError(f"{root}: no image of class '{listing.classes[min(empty)]}'")


def _counts(parts: dict[str, int]) -> str:
    return ", ".join(
        counted(count, "image" if p == "all" else f"{p} image") for p, count in parts.items()
    )
