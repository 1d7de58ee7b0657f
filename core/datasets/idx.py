"""Images in idx files, the format of MNIST, Fashion-MNIST, KMNIST and EMNIST.

A folder holds {train,t10k}-{images-idx3,labels-idx1}-ubyte, plain or compressed (.gz). The last
tenth of the training images becomes the validation split.
"""

from __future__ import annotations

import gzip
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.config import ConfigError

TYPES = {0x08: "uint8"}
"""Types by the third byte of an idx file; other types (integers and floats) are not images."""
LARGEST = 2**31
"""Maximum size of an uncompressed idx file in bytes; Fashion-MNIST's largest has 47 million."""
PARTS = {"train": "train", "test": "t10k"}


def read_idx(file: Path) -> NDArray[np.uint8]:
    """The array in an idx file, uint8. Raises ConfigError if the file has another format, or more
    or fewer bytes than its header says."""
    try:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rb") as source:
            head = source.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in TYPES or not head[3]:
                raise ConfigError(f"{file}: expected an idx file of uint8, begins with {head!r}")
            shape = np.frombuffer(source.read(4 * head[3]), ">u4").tolist()
            size = math.prod(shape)
            if len(shape) < head[3] or size > LARGEST:
                raise ConfigError(
                    f"{file}: expected at most {LARGEST} bytes, the header says {shape}"
                )
            data = source.read(size + 1)
    except (OSError, EOFError) as error:
        raise ConfigError(f"{file}: cannot be read ({error})") from None
    if len(data) != size:
        more = "more" if len(data) > size else f"{len(data)}"
        raise ConfigError(f"{file}: expected {size} bytes for {shape}, found {more}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def read_images(folder: Path, *, each: int | None = None) -> Iterator[tuple[str, str, Image.Image]]:
    """Yields (split, class, image) from a folder of idx files, classes named '00', '01', ... each:
    maximum number of images per class and split; None for all. Raises ConfigError."""
    for part, prefix in PARTS.items():
        images = read_idx(_file(folder, f"{prefix}-images-idx3-ubyte"))
        labels = read_idx(_file(folder, f"{prefix}-labels-idx1-ubyte"))
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise ConfigError(
                f"{folder}: expected {prefix} images [N, H, W] and labels [N], got "
                f"{list(images.shape)} and {list(labels.shape)}"
            )
        first_held = len(images) - len(images) // 10 if part == "train" else len(images)
        counts = Counter[tuple[str, int]]()
        for number, (pixels, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            split = "val" if number >= first_held else part
            counts[split, label] += 1
            if each is None or counts[split, label] <= each:
                yield split, f"{label:02}", Image.fromarray(pixels).convert("RGB")


def _file(folder: Path, name: str) -> Path:
    for found in (folder / name, folder / f"{name}.gz"):
        if found.is_file():
            return found
    raise ConfigError(f"{folder / name}: no such file, nor {name}.gz")
