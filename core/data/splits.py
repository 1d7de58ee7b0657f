"""Datasets as uint8 arrays: every split is images [N, 3, H, W] and labels [N].

Procedural and noise datasets are drawn in memory. A benchmark dataset is read from its prepared
arrays (core.datasets); a user's folder is decoded into arrays once. Both are stored under
<data>/prepared and memory-mapped, so that the runs on a node share one copy.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from core.config import ConfigError, RunConfig
from core.config.datasets import entries
from core.config.registry import PROCEDURAL, SYNTHETIC
from core.config.seeds import derive
from core.data.drawn import CLASSES, draw
from core.data.inputs import dataset_folder, is_own
from core.datasets import arrays, prepared
from core.datasets.images import read_image
from core.datasets.own import SPLITS, checked
from core.datasets.splits import shuffled
from core.errors import first_line
from core.store.folders import Store

log = logging.getLogger("epsweep")
DECODING = "as shown"
"""How images of users' folders are decoded; arrays decoded differently get another key."""


@dataclass(frozen=True)
class Split:
    """images: uint8 [N, 3, H, W]; labels: int64 [N]. Raises ConfigError for anything else, such as
    images that are already normalised: attacks need pixels in [0, 1]."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if self.images.dtype != torch.uint8 or len(shape) != 4:
            kind = str(self.images.dtype).removeprefix("torch.")
            raise ConfigError(f"images: expected uint8 [N, 3, H, W], got {kind} {list(shape)}")
        if len(self.labels) != len(self.images):
            raise ConfigError(f"labels: expected {len(self.images)}, got {len(self.labels)}")

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, n: int | None) -> Self:
        """The first n images; all if n is None or larger than their number."""
        return self if n is None else replace(self, images=self.images[:n], labels=self.labels[:n])

    def batch(self, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images in [0, 1] as float32 [B, 3, H, W] and labels [B], on `device`."""
        images = rows(self.images, index, device)
        return images.float().div_(255), rows(self.labels, index, device)


@dataclass(frozen=True)
class FloatSplit(Split):
    """A split with images in [0, 1] of any float type. Raises ConfigError for other types."""

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if not self.images.is_floating_point() or len(shape) != 4:
            kind = str(self.images.dtype).removeprefix("torch.")
            raise ConfigError(f"images: expected floats [N, C, H, W], got {kind} {list(shape)}")
        if len(self.labels) != len(self.images):
            raise ConfigError(f"labels: expected {len(self.images)}, got {len(self.labels)}")

    def batch(self, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        return rows(self.images, index, device).float(), rows(self.labels, index, device)


def rows(source: Tensor, index: Tensor, device: torch.device) -> Tensor:
    """Copies rows `index` of a tensor in host memory to `device`. For a GPU through pinned memory,
    so that the host need not wait for the copy and can queue work ahead."""
    shape = (len(index), *source.shape[1:])
    taken = torch.empty(shape, dtype=source.dtype, pin_memory=device.type == "cuda")
    torch.index_select(source, 0, index, out=taken)
    return taken.to(device, non_blocking=True)


@dataclass(frozen=True)
class Dataset:
    """Three splits with the same classes."""

    name: str
    classes: int
    train: Split
    val: Split
    test: Split

    @property
    def sizes(self) -> dict[str, int]:
        """Split -> number of images."""
        return {name: len(getattr(self, name)) for name in SPLITS}

    def first(self, n: int) -> Dataset:
        """A copy with only the first n images of every split, for dry runs."""
        splits = {name: getattr(self, name).first(n) for name in SPLITS}
        return replace(self, **splits)


def load(
    config: RunConfig, store: Store, *, stage: Path | None = None, miniature: bool = False
) -> Dataset:
    """The dataset of a run. stage: a folder on a faster disk, to which prepared arrays are copied
    and from which they are read; miniature: accept arrays of a miniature in place of the dataset.

    Raises ConfigError naming the folder or file that is wrong.
    """
    if config.dataset in PROCEDURAL:
        return _drawn(config.dataset, config.seed)
    if config.dataset == "fake":
        return _fake(config.image_size)
    if config.dataset in entries() and not is_own(config.dataset, config.image_size, store):
        return _benchmark(config.dataset, config.image_size, store, stage, miniature)
    return _folder(dataset_folder(config.dataset, store), config.image_size, store, stage)


@lru_cache(maxsize=4)  # drawing takes longer than a short training, and jobs execute many runs
def _drawn(name: str, seed: int) -> Dataset:
    drawn = {split: Split(*draw(name, split, seed=seed)) for split in SPLITS}
    return Dataset(name, CLASSES[name], **drawn)


def _benchmark(name: str, size: int, store: Store, stage: Path | None, miniature: bool) -> Dataset:
    """A known dataset from its prepared arrays, which are made first if they are missing."""
    if all((store.data / name / split).is_dir() for split in SPLITS):
        log.info("dataset %s: using prepared arrays, not %s", name, store.data / name)
    folder = arrays.obtain(name, size, store)
    index = prepared.describe(folder, entries()[name], miniature=miniature)
    whole = _mapped(folder, stage)
    splits, start = {}, 0
    for split in SPLITS:
        end = start + index["splits"][split]
        splits[split] = Split(whole.images[start:end], whole.labels[start:end])
        start = end
    return Dataset(name, len(index["classes"]), **splits)


def _fake(size: int, *, classes: int = SYNTHETIC["fake"]) -> Dataset:
    """Noise around one mean colour per class; 200 training, 60 validation and 60 test images."""
    splits = {}
    for name, images in (("train", 200), ("val", 60), ("test", 60)):
        generator = torch.Generator().manual_seed(derive(0, "fake", name))
        labels = torch.arange(images) % classes
        colours = torch.rand(classes, 3, 1, 1, generator=torch.Generator().manual_seed(1))
        noise = torch.randn(images, 3, size, size, generator=generator) * 0.1
        pixels = (colours[labels] + noise).clamp_(0, 1).mul_(255).byte()
        splits[name] = Split(pixels, labels)
    return Dataset("fake", classes, **splits)


def _folder(path: Path, size: int, store: Store, stage: Path | None) -> Dataset:
    """A user's folder `path`/{train,val,test}/<class>/<image>; images are resized to size x size
    (bilinear, ignoring their aspect ratio) and put in a fixed shuffled order, so that the first n
    of a split are a fair sample of it."""
    found = checked(path)
    for remark in found.remarks:
        log.info("%s: %s", path, remark)
    splits = {}
    for split, classes in found.files.items():
        labelled = [(file, label) for label, name in enumerate(classes) for file in classes[name]]
        splits[split] = _prepared(path.name, shuffled(labelled), size, store, stage)
    return Dataset(path.name, len(found.files["train"]), **splits)


def _prepared(
    name: str, files: Sequence[tuple[Path, int]], size: int, store: Store, stage: Path | None
) -> Split:
    """Decode images unless arrays for them exist. Their key covers every file's path, size and
    time, so that a change makes new arrays."""
    digest = hashlib.sha256(f"{size} {DECODING}".encode())
    for file, label in files:
        stat = file.stat()
        digest.update(f"\n{file}\t{label}\t{stat.st_size}\t{stat.st_mtime_ns}".encode())
    folder = store.data / "prepared" / f"{name}-{size}-{digest.hexdigest()[:16]}"
    if not folder.is_dir():
        _publish(folder, lambda draft: _decode(files, size, draft))
    return _mapped(folder, stage)


def _mapped(folder: Path, stage: Path | None) -> Split:
    """The arrays of a prepared folder, memory-mapped; from a copy on `stage` if given."""
    if stage:
        shared, folder = folder, stage / folder.name
        if not folder.is_dir():
            _publish(folder, lambda draft: shutil.copytree(shared, draft, dirs_exist_ok=True))
    try:
        # Not np.load, whose message about a damaged file suggests unpickling it.
        both = [np.lib.format.open_memmap(folder / name, mode="c") for name in arrays.FILES[:2]]
        return Split(*map(torch.from_numpy, both))
    except (ValueError, FileNotFoundError) as error:  # truncated, not an npy file, or missing
        raise ConfigError(
            f"{folder}: damaged arrays ({first_line(error)}); delete this folder to remake it"
        ) from None


def _publish(folder: Path, fill: Callable[[Path], object]) -> None:
    """Fill a draft folder, then rename it. If two processes do so at once, the first one's stays.
    Raises OSError."""
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    draft.mkdir(parents=True)
    try:
        fill(draft)
        os.rename(draft, folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _decode(files: Sequence[tuple[Path, int]], size: int, folder: Path) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(files), 3, size, size)}
    # PIL releases the GIL while it decodes. Written as a stream: on a full disk, writing through a
    # memory map would kill the process (SIGBUS) instead of raising OSError.
    with open(folder / "images.npy", "wb") as file, ThreadPoolExecutor() as pool:
        np.lib.format.write_array_header_1_0(file, header)
        for image in pool.map(lambda item: read_image(item[0], size, as_shown=True), files):
            file.write(image.tobytes())
    np.save(folder / "labels.npy", np.array([label for _, label in files], dtype=np.int64))
