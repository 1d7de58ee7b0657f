"""Where prepared datasets are stored, and their index.

`core.datasets.arrays` makes them. Imports no numpy, since planning and launching use it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from core.config import ConfigError
from core.config.datasets import Entry
from core.errors import DamagedError
from core.store.folders import Store
from core.store.json_files import read_json
from core.store.shapes import Count

INDEX = "index.json"


class Prepared(TypedDict):
    """progress.json: how many images of a dataset have been prepared."""

    images: Count


class Arrays(TypedDict):
    """index.json of prepared images."""

    classes: list[str]
    splits: dict[str, Count]
    miniature: bool
    checksums: dict[str, str]


def place(name: str, size: int, store: Store) -> Path:
    """The folder for the arrays of a dataset, whether or not it exists."""
    return store.data / "prepared" / f"{name}-{size}"


def describe(folder: Path, entry: Entry, *, miniature: bool = False) -> dict[str, Any]:
    """The index of prepared arrays. Raises ConfigError if it is unreadable or does not match the
    entry, or if the arrays are a miniature's and `miniature` is false."""
    try:
        index = read_json(folder / INDEX, Arrays)
    except DamagedError:
        index = None
    if index is None:
        raise ConfigError(f"{folder}: no readable index.json; delete this folder, prepare it again")
    if index["miniature"] and not miniature:
        raise ConfigError(f"{folder}: a miniature for dry runs, not {entry.title}; delete it")
    if not miniature and index["splits"] != entry.splits:
        raise ConfigError(
            f"{folder}: expected {entry.splits} images, got {index['splits']}; "
            "delete this folder and prepare it again"
        )
    return index
