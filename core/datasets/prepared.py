"""Prepared datasets as a plan looks at them: where they lie and what they say of themselves.

`core.datasets.arrays` makes them. Imports no numpy: launching and planning do this.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.config import ConfigError
from core.config.datasets import Entry
from core.errors import DamagedError
from core.store import shapes
from core.store.folders import Store
from core.store.json_files import read_json

INDEX = "index.json"


def place(name: str, size: int, store: Store) -> Path:
    """Where the arrays of a dataset lie, whether or not they are there."""
    return store.data / "prepared" / f"{name}-{size}"


def describe(folder: Path, entry: Entry, *, miniature: bool = False) -> dict[str, Any]:
    """The index of prepared arrays. Raises ConfigError where they are not those of the entry, or
    are a miniature and that is not asked for."""
    try:
        index = read_json(folder / INDEX, shapes.Arrays)
    except DamagedError:
        index = None
    if index is None:
        raise ConfigError(f"{folder}: no readable index.json; delete this folder, prepare it again")
    if index["miniature"] and not miniature:
        raise ConfigError(f"{folder}: a miniature for rehearsals, not {entry.title}; delete it")
    if not miniature and index["splits"] != entry.splits:
        raise ConfigError(
            f"{folder}: expected {entry.splits} images, has {index['splits']}; "
            "delete this folder and prepare it again"
        )
    return index
