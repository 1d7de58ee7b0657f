"""Brittle samples told from robust ones by a margin, and robust accuracy from few distances.

An image is brittle at eps if its decision changes within that distance. The score is the margin
turned round: the smaller, the more brittle (arXiv 2406.18451, section 4; as in its code, AUPR is
the area under recall and precision, and FPR95 taken at the smallest TPR >= 95 %).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import trapezoid

Values = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]
RAREST = 0.001
"""Detection is skipped where less than this share of the images is brittle, or robust."""
RARE = 10
"""Images of one sort, below which numbers are marked: a thousandth of the paper's test set."""
TPR = 0.95
TPRS = (0.80, 0.825, 0.85, 0.875, 0.90, 0.925, 0.95, 0.99)
"""Of these, the estimate that tries several takes the one that is best on its own images."""
DRAWS = 10
FEW, LEAST, SHARE = 500, 50, 5
"""Images whose distance an estimate knows: 500, or one in 5 if that is less, but at least 50."""


@dataclass(frozen=True)
class Detection:
    """How well a margin finds brittle images, each in [0, 1]."""

    auroc: float
    aupr: float
    fpr95: float


def is_rare(brittle: Flags) -> bool:
    """Whether too few images are of one sort for detection to mean anything."""
    share = float(brittle.mean())
    return not RAREST <= share <= 1 - RAREST


def is_scarce(share: float, n: int) -> bool:
    """Whether fewer than RARE of n images are brittle, or robust. share: of brittle ones."""
    return round(min(share, 1 - share) * n) < RARE


def roc(margin: Values, brittle: Flags) -> tuple[Values, Values]:
    """(false, true) positive rates from the strictest threshold to the laxest, beginning with
    (0, 0); equal margins are flagged together. Both sorts of images have to be there."""
    hits, alarms, _ = _flagged(margin, brittle)
    false, true = alarms / (~brittle).sum(), hits / brittle.sum()
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def detect(margin: Values, brittle: Flags) -> Detection:
    """margin, brittle: of each image, shape [n]. Both sorts of images have to be there."""
    false, true = roc(margin, brittle)
    hits, alarms, _ = _flagged(margin, brittle)
    precision = np.concatenate([[1.0], hits / (hits + alarms)])
    return Detection(
        auroc=float(trapezoid(true, false)),
        aupr=float(trapezoid(precision, true)),
        fpr95=float(false[np.argmax(true >= TPR)]),
    )


def _flagged(margin: Values, brittle: Flags) -> tuple[Values, Values, Values]:
    """(brittle, robust) images with at most each distinct margin, and these margins, ascending."""
    order = np.argsort(margin, kind="stable")
    ordered, hit = margin[order], brittle[order]
    last = np.flatnonzero(np.concatenate([ordered[1:] != ordered[:-1], [True]]))
    return np.cumsum(hit)[last].astype(float), np.cumsum(~hit)[last].astype(float), ordered[last]


def threshold(margin: Values, brittle: Flags, rate: float) -> float:
    """The smallest margin up to which at least the share `rate` of the brittle images lies; -inf if
    none is brittle, so that nothing is flagged."""
    if not brittle.any():
        return float("-inf")
    hits, _, margins = _flagged(margin, brittle)
    return float(margins[np.argmax(hits / hits[-1] >= rate)])


@dataclass(frozen=True)
class Images:
    """What is known of each image, shape [n]."""

    margin: Values
    brittle: Flags
    """At one strength, whatever its label."""
    right: Flags
    """Whether the clean image is classified correctly."""

    def accuracy(self) -> float:
        """Robust accuracy in [0, 1] from all distances."""
        return float((self.right & ~self.brittle).mean())

    def estimate(self, threshold: float) -> float:
        """The same if images with at most this margin are called brittle."""
        return float((self.right & (self.margin > threshold)).mean())

    def some(self, rows: NDArray[np.int64]) -> Images:
        return Images(self.margin[rows], self.brittle[rows], self.right[rows])


@dataclass(frozen=True)
class Estimates:
    """Robust accuracy in [0, 1] by the two rules, one for each of DRAWS subsets."""

    fixed: tuple[float, ...]
    """Threshold at a TPR of 95 % on the subset."""
    best: tuple[float, ...]
    """Threshold at that of TPRS whose estimate is nearest to the truth on the subset."""


def known(n: int) -> int:
    """Of n images, how many distances an estimate takes."""
    return min(n, FEW, max(LEAST, n // SHARE))


def estimates(images: Images) -> Estimates:
    """From the distances of `known(n)` images and the margins of all. Deterministic: the subsets
    depend on n alone."""
    n = len(images.right)
    generator = np.random.default_rng(n)
    subsets = [images.some(generator.permutation(n)[: known(n)]) for _ in range(DRAWS)]
    fixed = [threshold(part.margin, part.brittle, TPR) for part in subsets]
    best = [_best(part) for part in subsets]
    return Estimates(tuple(map(images.estimate, fixed)), tuple(map(images.estimate, best)))


def _best(part: Images) -> float:
    """The threshold of the rule that tries several rates; of equally good ones the first."""
    tried = [threshold(part.margin, part.brittle, rate) for rate in TPRS]
    return min(tried, key=lambda one: abs(part.estimate(one) - part.accuracy()))
