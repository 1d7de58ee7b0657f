"""Stratified splits that do not change with library versions.

The released splits of the benchmark come from scikit-learn's stratified `train_test_split`. The
same draw is made here from NumPy's legacy generator, whose streams never change. Each split thus
has the released images, as long as images are listed in the same order: that of the official
lists, else sorted class folders and sorted files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from core.config import ConfigError
from core.config.datasets import Entry
from core.datasets.listing import Item

Index = NDArray[np.int64]
_T = TypeVar("_T")

SPLIT_SEED = 42
SAMPLE_SEED = 0


def stratified(labels: Sequence[int], train: int, test: int, seed: int) -> tuple[Index, Index]:
    """Indices of `train` and of `test` images with classes in proportion, both in drawn order.

    Equal to scikit-learn's train_test_split(range(n), train_size=train, test_size=test,
    stratify=labels, random_state=seed). Raises ConfigError if there are too few images.
    """
    if train + test > len(labels):
        raise ConfigError(f"expected at least {train + test} images to split, got {len(labels)}")
    generator = np.random.RandomState(seed)
    _, codes = np.unique(np.asarray(labels), return_inverse=True)
    counts = np.bincount(codes)
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(counts)[:-1])
    first = _shares(counts, train, generator)
    second = _shares(counts - first, test, generator)
    chosen: list[int] = []
    others: list[int] = []
    for indices, a, b in zip(members, first, second, strict=True):
        drawn = indices[generator.permutation(len(indices))]
        chosen += drawn[:a].tolist()
        others += drawn[a : a + b].tolist()
    return generator.permutation(chosen), generator.permutation(others)


def _shares(counts: NDArray[Any], total: int, generator: np.random.RandomState) -> Index:
    """How many of `total` each class gets: its proportion rounded down, and the rest to the classes
    with the largest remainders, ties drawn at random."""
    exact = counts / counts.sum() * total
    shares = np.floor(exact)
    left = int(total - shares.sum())
    for value in np.sort(np.unique(exact - shares))[::-1]:
        if left == 0:
            break
        (tied,) = np.where(exact - np.floor(exact) == value)
        lucky = generator.choice(tied, size=min(len(tied), left), replace=False)
        shares[lucky] += 1
        left -= len(lucky)
    whole: Index = shares.astype(np.int64)
    return whole


def each(labels: Sequence[int], count: int, seed: int) -> tuple[Index, Index]:
    """Indices of `count` random images of every class, and of all remaining ones; both ascending.

    Raises ConfigError if a class has no more than `count` images.
    """
    generator = np.random.RandomState(seed)
    chosen = np.zeros(len(labels), dtype=bool)
    for label in sorted(set(labels)):
        (members,) = np.where(np.asarray(labels) == label)
        if len(members) <= count:
            raise ConfigError(
                f"class {label}: expected more than {count} images, got {len(members)}"
            )
        chosen[generator.permutation(members)[:count]] = True
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def divide(parts: Mapping[str, Sequence[Item]], entry: Entry) -> dict[str, list[Item]]:
    """train, val and test from the official parts, by the entry's rules.

    Every split is in a fixed shuffled order, so that its first n images are a fair sample even if
    the official list is sorted by class.
    """
    split = {name: list(items) for name, items in parts.items()}
    if entry.test_share is not None:
        split["train"], split["test"] = _share(split.pop("all"), entry.test_share)
    if entry.train_each is not None:
        everything = split.pop("all")
        split["train"], split["test"] = (
            [everything[i] for i in indices]
            for indices in each(_labels(everything), entry.train_each, SPLIT_SEED)
        )
    if entry.val_share is not None:
        split["train"], split["val"] = _share(split["train"], entry.val_share)
    if entry.test_images is not None and entry.test_images < len(split["test"]):
        test, take = split["test"], entry.test_images
        kept, _ = stratified(_labels(test), take, len(test) - take, SAMPLE_SEED)
        split["test"] = [test[i] for i in kept]
    return {name: shuffled(split[name]) for name in ("train", "val", "test")}


def _labels(items: Sequence[Item]) -> list[int]:
    return [label for _, label in items]


def _share(items: Sequence[Item], share: float) -> tuple[list[Item], list[Item]]:
    """Divide the items: those that remain, and a stratified `share` (rounded up)."""
    out = math.ceil(share * len(items))
    kept, held = stratified(_labels(items), len(items) - out, out, SPLIT_SEED)
    return [items[i] for i in kept], [items[i] for i in held]


def shuffled(items: Sequence[_T]) -> list[_T]:
    """The items in a shuffled order that depends only on their number."""
    order = np.random.RandomState(SAMPLE_SEED).permutation(len(items))
    return [items[i] for i in order]
