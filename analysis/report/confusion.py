"""Which class is taken for which, clean and under attack, by the flags of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.config import Strength

Array = NDArray[Any]
ATTACKED = {"critical", "taken"}
"""Arrays of an attack that records classes, see core.evaluation.queue."""
MEASURED = {"predicted", "target", "correct", "distance"}
"""Arrays of an evaluation that measures distances, see core.evaluation.minimal."""


class Confusion(NamedTuple):
    """strength: 'clean' or '4/255'. counts: number of images for each pair of classes, [true,
    predicted]. unknown: number of images that are wrong, but of unknown class."""

    strength: str
    counts: Array
    unknown: int

    @property
    def right(self) -> int:
        return int(np.trace(self.counts))

    @property
    def share(self) -> Array:
        """Counts as shares of the true class, in [0, 1]."""
        shares: Array = self.counts / np.maximum(self.counts.sum(1, keepdims=True), 1)
        return shares

    @property
    def said(self) -> str:
        """'19 of 24 images right', with the number of images of unknown class if there are any."""
        unknown = f", {self.unknown} taken for an unknown class" if self.unknown else ""
        return f"{self.right} of {self.counts.sum() + self.unknown} images right{unknown}"

    def mistakes(self, most: int) -> list[tuple[int, int, int]]:
        """(true class, predicted class, number of images) of the most frequent mistakes."""
        wrong = self.counts * (1 - np.eye(len(self.counts), dtype=int))
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        places = [divmod(int(place), len(wrong)) for place in order]
        return [(*place, int(wrong[place])) for place in places if wrong[place]]


def confusions(
    flags: Mapping[str, Array], strengths: Sequence[Strength], shown: Sequence[Strength]
) -> list[Confusion]:
    """The confusion on clean images, then at each strength in `shown`. flags: has the arrays
    ATTACKED, of an evaluation at `strengths` (ascending from 0, those in `shown` among them), or
    the arrays MEASURED."""
    label = flags["label"].astype(int)
    levels = [0, *map(strengths.index, shown)]
    taken = [_taken(flags, label, strengths[level], level) for level in levels]
    size = int(max(label.max(), *(classes.max() for classes in taken))) + 1
    names = ["clean", *map(str, shown)]
    return [
        Confusion(name, *_counts(label, classes, size))
        for name, classes in zip(names, taken, strict=True)
    ]


def _taken(flags: Mapping[str, Array], label: Array, strength: Strength, level: int) -> Array:
    """The class that each image is taken for at a strength, -1 if that is unknown; shape [n]. By
    distances: once the strength reaches the nearest boundary that was found, the class beyond
    it."""
    if {*flags} >= ATTACKED:
        return np.where(flags["critical"] > level, label, flags["taken"])
    right = flags["correct"].astype(bool)
    broken = right & (flags["distance"] <= np.float32(float(strength))) & (level > 0)
    return np.where(broken, flags["target"], np.where(right, label, flags["predicted"]))


def _counts(label: Array, classes: Array, size: int) -> tuple[Array, int]:
    known = classes >= 0
    counts = np.zeros((size, size), int)
    np.add.at(counts, (label[known], classes[known]), 1)
    return counts, int((~known).sum())
