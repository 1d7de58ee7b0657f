"""`sweep data make`: image folders, laid out like a user's own, from fonts or idx files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from core.config import ConfigError

if TYPE_CHECKING:
    from PIL import Image


def make_folder(pictures: Iterator[tuple[str, str, Image.Image]], folder: Path) -> str:
    """Write (split, class, image) triples as <folder>/<split>/<class>/<number>.png; all or nothing.

    Returns what was written, as a phrase. Raises ConfigError if the folder already exists.
    """
    if folder.exists():
        raise ConfigError(f"{folder}: already exists; delete it, or name another with --to")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    try:
        for split, name, image in pictures:
            place = draft / split / name
            if not counts[split][name]:
                place.mkdir(parents=True)
            image.save(place / f"{counts[split][name]:05}.png")
            counts[split][name] += 1
        draft.chmod(0o777 & ~_umask())
        os.rename(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    classes = len({name for found in counts.values() for name in found})
    images = ", ".join(f"{found.total()} {split}" for split, found in counts.items())
    return f"{classes} classes, {images} images"


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now
