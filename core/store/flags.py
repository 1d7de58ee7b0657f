"""evals/<id>.npz: the per-image results of an evaluation.

index     int [n]         the image's index in its split
label     int [n]
critical  int [n]         attacks: index of the smallest strength that breaks the image
taken     int [n]         attacks: class it is taken for from there on, see core.evaluation.queue.
                          Evaluations of older versions do not have it
right     int [n, types]  common corruptions: 1 right, 0 wrong, -1 not tried
distance, predicted, correct, target [n]  fmn, see core.evaluation.minimal.Distances

User-defined kinds have other arrays of numbers, with one entry per image.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import DamagedError
from core.store.files import AnyPath, read

INTEGERS = ("index", "label", "critical", "taken", "right")


def read_flags(path: AnyPath) -> dict[str, NDArray[Any]] | None:
    """The arrays in `path`; None if there is no such file. Raises DamagedError."""
    content = read(path)
    if content is None:
        return None
    try:
        with np.load(io.BytesIO(content)) as stored:
            flags = dict(stored)
        index = flags["index"]
        whole = len(np.unique(index)) == len(index)
    except (ValueError, KeyError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise DamagedError(Path(path), f"not a complete npz file ({error})") from None
    for name, values in flags.items():
        what, kinds = ("integers", "iu") if name in INTEGERS else ("numbers", "iufb")
        if values.dtype.kind not in kinds or not values.ndim or len(values) != len(index):
            shape = f"{values.dtype} {list(values.shape)}"
            raise DamagedError(Path(path), f"{name}: expected {len(index)} {what}, got {shape}")
    if not whole:
        raise DamagedError(Path(path), "expected each image once")
    return flags
