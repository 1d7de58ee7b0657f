"""Detection of brittle images by a small margin, and robust accuracy from few distances.

An image is brittle at eps if its decision changes within that distance; the smaller the margin, the
more brittle it is taken to be (arXiv 2406.18451, section 4). As in its code, AUPR is the area under
the precision-recall curve, and FPR95 is taken at the smallest TPR >= 95 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

Values = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]
RAREST = 0.001
"""Detection is skipped if less than this share of the images is brittle, or robust."""
RARE = 10
"""Numbers are marked if fewer images are brittle, or robust; 10 are 1/1000 of the paper's
images."""
TPR = 0.95
TPRS = (0.80, 0.825, 0.85, 0.875, 0.90, 0.925, 0.95, 0.99)
"""True positive rates that the rule `best` tries; it takes the best on the subset."""
DRAWS = 10
FEW, LEAST, SHARE = 500, 50, 5
"""Size of the subset with known distances: a fifth of the images, at most 500, at least 50."""


@dataclass(frozen=True)
class Detection:
    """How well a margin detects brittle images; all in [0, 1]."""

    auroc: float
    aupr: float
    fpr95: float


def is_rare(brittle: Flags) -> bool:
    """Whether too few images are brittle, or robust, for detection to be meaningful."""
    share = float(brittle.mean())
    return not RAREST <= share <= 1 - RAREST


def is_scarce(share: float, n: int) -> bool:
    """Whether fewer than RARE of n images are brittle, or robust. share: of brittle ones, in
    [0, 1]."""
    return round(min(share, 1 - share) * n) < RARE


def roc(margin: Values, brittle: Flags) -> tuple[Values, Values]:
    """(false, true) positive rates from the lowest threshold to the highest, beginning with (0, 0),
    one point per distinct margin. margin, brittle: of each image, shape [n], with brittle and
    robust ones among them."""
    hits, alarms, _ = _flagged(margin, brittle)
    false, true = alarms / (~brittle).sum(), hits / brittle.sum()
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def detect(margin: Values, brittle: Flags) -> Detection:
    """Detection of brittle images by a small margin. Parameters as for `roc`."""
    false, true = roc(margin, brittle)
    hits, alarms, _ = _flagged(margin, brittle)
    precision = np.concatenate([[1.0], hits / (hits + alarms)])
    return Detection(
        auroc=float(scipy.integrate.trapezoid(true, false)),
        aupr=float(scipy.integrate.trapezoid(precision, true)),
        fpr95=float(false[np.argmax(true >= TPR)]),
    )


def _flagged(margin: Values, brittle: Flags) -> tuple[Values, Values, Values]:
    """(numbers of brittle and of robust images with at most each distinct margin, these margins in
    ascending order)."""
    order = np.argsort(margin, kind="stable")
    ordered, hit = margin[order], brittle[order]
    last = np.flatnonzero(np.concatenate([ordered[1:] != ordered[:-1], [True]]))
    return np.cumsum(hit)[last].astype(float), np.cumsum(~hit)[last].astype(float), ordered[last]


def threshold(margin: Values, brittle: Flags, rate: float) -> float:
    """The smallest margin such that at least the share `rate` of the brittle images has at most
    this margin; -inf if no image is brittle."""
    if not brittle.any():
        return float("-inf")
    hits, _, margins = _flagged(margin, brittle)
    return float(margins[np.argmax(hits / hits[-1] >= rate)])


@dataclass(frozen=True)
class Images:
    """Margin, brittleness and correctness of images, arrays of shape [n]."""

    margin: Values
    brittle: Flags
    """Whether the decision changes within one strength, be it right or wrong."""
    right: Flags
    """Whether the clean image is classified correctly."""

    def accuracy(self) -> float:
        """Robust accuracy in [0, 1] from all distances."""
        return float((self.right & ~self.brittle).mean())

    def estimate(self, threshold: float) -> float:
        """Robust accuracy in [0, 1] if images with at most this margin are taken to be brittle."""
        return float((self.right & (self.margin > threshold)).mean())

    def some(self, rows: NDArray[np.int64]) -> Images:
        return Images(self.margin[rows], self.brittle[rows], self.right[rows])


@dataclass(frozen=True)
class Estimates:
    """Robust accuracy in [0, 1] by two rules, one value for each of DRAWS subsets."""

    fixed: tuple[float, ...]
    """Threshold at a TPR of 95 % on the subset."""
    best: tuple[float, ...]
    """Threshold at the rate in TPRS whose estimate is closest to the truth on the subset."""


def known(n: int) -> int:
    """How many of n images the subset with known distances has."""
    return min(n, FEW, max(LEAST, n // SHARE))


def estimates(images: Images) -> Estimates:
    """Estimates from the distances of `known(n)` images and the margins of all. Deterministic: the
    subsets depend only on n."""
    n = len(images.right)
    generator = np.random.default_rng(n)
    subsets = [images.some(generator.permutation(n)[: known(n)]) for _ in range(DRAWS)]
    fixed = [threshold(part.margin, part.brittle, TPR) for part in subsets]
    best = [_best(part) for part in subsets]
    return Estimates(tuple(map(images.estimate, fixed)), tuple(map(images.estimate, best)))


def _best(part: Images) -> float:
    """The threshold by the rule `best`; the first of equally good ones."""
    tried = [threshold(part.margin, part.brittle, rate) for rate in TPRS]
    return min(tried, key=lambda one: abs(part.estimate(one) - part.accuracy()))
