"""Which class is taken for which, clean and under attack, by the flags of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
CLASSES = {"predicted", "target", "correct", "distance"}
"""Arrays of an evaluation that records predicted classes, see core.evaluation.minimal."""


class Confusion(NamedTuple):
    """strength: 'clean' or '4/255'. counts: number of images for each pair of classes, [true,
    predicted]."""

    strength: str
    counts: Array

    @property
    def right(self) -> int:
        return int(np.trace(self.counts))

    def mistakes(self, most: int) -> list[tuple[int, int, int]]:
        """(true class, predicted class, number of images) of the most frequent mistakes."""
        wrong = self.counts * (1 - np.eye(len(self.counts), dtype=int))
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        places = [divmod(int(place), len(wrong)) for place in order]
        return [(*place, int(wrong[place])) for place in places if wrong[place]]


def confusions(flags: Mapping[str, Array], at: Sequence[tuple[str, float]]) -> list[Confusion]:
    """The confusion on clean images, then at each (name, strength in [0, 1]) in `at`. flags: with
    the arrays CLASSES. At strengths above its distance, a right image counts as taken for the class
    beyond the nearest boundary that was found."""
    label, right = flags["label"].astype(int), flags["correct"].astype(bool)
    size = int(max(label.max(), flags["predicted"].max(), flags["target"].max())) + 1
    found = []
    for name, strength in [("clean", 0.0), *at]:
        broken = right & (flags["distance"] <= np.float32(strength)) & (strength > 0)
        held = np.where(right, label, flags["predicted"])
        counts = np.zeros((size, size), int)
        np.add.at(counts, (label, np.where(broken, flags["target"], held)), 1)
        found.append(Confusion(name, counts))
    return found
