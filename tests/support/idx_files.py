"""Small idx files, as MNIST and Fashion-MNIST are published."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np


def write_idx(folder: Path, change: Callable[[str, bytes], bytes] = lambda name, b: b) -> Path:
    """40 training and 20 test images of four classes, the images packed; `change` may damage what a
    file holds."""
    folder.mkdir()
    for prefix, count in (("train", 40), ("t10k", 20)):
        pixels = (np.arange(count * 28 * 28) % 251).astype(np.uint8)
        labels = (np.arange(count) % 4).astype(np.uint8)
        images = struct.pack(">IIII", 0x0803, count, 28, 28) + pixels.tobytes()
        name = f"{prefix}-images-idx3-ubyte"
        (folder / f"{name}.gz").write_bytes(gzip.compress(change(name, images)))
        name = f"{prefix}-labels-idx1-ubyte"
        head = struct.pack(">II", 0x0801, count)
        (folder / name).write_bytes(change(name, head + labels.tobytes()))
    return folder
