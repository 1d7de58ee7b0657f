"""evals/<id>.npz: what an evaluation found, image by image.

index     int [n]     the image's place in its split
critical  int [n]     index into the strengths of the first one that breaks the image
label     int [n]
right     int [n, types]  under common corruptions: 1 right, 0 wrong, -1 not tried
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import DamagedError
from core.store.folders import present


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
        if values.dtype.kind not in "iu" or len(values) != len(index):
            shape = f"{values.dtype} {list(values.shape)}"
            raise DamagedError(path, f"{name}: expected {len(index)} integers, got {shape}")
    if not whole or "critical" not in flags:
        raise DamagedError(path, "expected each image once, and its critical strength")
    return flags
