"""evals/<id>.npz: what an evaluation found, image by image.

index     int [n]     the image's place in its split
label     int [n]
critical  int [n]     of attacks: index into the strengths of the first one that breaks the image
right     int [n, types]  under common corruptions: 1 right, 0 wrong, -1 not tried
distance, predicted, correct, target [n]  of fmn, see core.evaluation.minimal.Distances

Other kinds have other arrays of numbers, an entry per image each.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import DamagedError
from core.store.files import present

INTEGERS = ("index", "label", "critical", "right")


def read_flags(path: Path) -> dict[str, NDArray[Any]] | None:
    """The arrays in `path`, None if there is no such file. Raises DamagedError."""
    content = present(path.read_bytes)
    if content is None:
        return None
    try:
        with np.load(io.BytesIO(content)) as stored:
            flags = dict(stored)
        index = flags["index"]
        whole = len(np.unique(index)) == len(index)
    except (ValueError, KeyError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise DamagedError(path, f"not a whole npz file ({error})") from None
    for name, values in flags.items():
        what, kinds = ("integers", "iu") if name in INTEGERS else ("numbers", "iufb")
        if values.dtype.kind not in kinds or not values.ndim or len(values) != len(index):
            shape = f"{values.dtype} {list(values.shape)}"
            raise DamagedError(path, f"{name}: expected {len(index)} {what}, got {shape}")
    if not whole:
        raise DamagedError(path, "expected each image once")
    return flags
