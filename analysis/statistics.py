"""How sure a number is: tests over (model, dataset) pairs, and intervals over images.

Images are the unit wherever per-image flags are at hand: two settings are compared on the same
images, and several seeds are averaged per image first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from analysis.rounding import GUARD

CONFIDENCE = 0.95
RESAMPLES = 2000

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class PairedTest:
    """sched against fix over pairs: t-test, Wilcoxon's signed ranks, and the size of the effect."""

    n: int
    difference: float
    """Mean of second minus first, in points."""
    t: float
    p: float
    wilcoxon: float
    wilcoxon_p: float
    effect: float
    """Cohen's d of the differences: their mean over their sample standard deviation."""


def paired_test(first: NDArray[np.float64], second: NDArray[np.float64]) -> PairedTest:
    """Two-sided tests of second against first, arrays of shape [n] with n >= 2 pairs.

    nan where all differences are equal: no spread, no test.
    """
    # Equal differences are ties, and equal values none at all, whatever floats make of them.
    differences = np.round(second - first, GUARD)
    spread = differences.std(ddof=1)
    nan = float("nan")
    if np.isclose(spread, 0):
        return PairedTest(len(first), float(differences.mean()), nan, nan, nan, nan, nan)
    t = stats.ttest_1samp(differences, 0)
    w = stats.wilcoxon(differences)
    return PairedTest(
        n=len(first),
        difference=float(differences.mean()),
        t=float(t.statistic),
        p=float(t.pvalue),
        wilcoxon=float(w.statistic),
        wilcoxon_p=float(w.pvalue),
        effect=float(differences.mean() / spread),
    )


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction of the p-values of several tests, by name; nan stays nan.

    The k-th smallest of m is multiplied by m - k + 1, and none comes below a smaller one.
    """
    tested = sorted((name for name in p if not np.isnan(p[name])), key=p.__getitem__)
    corrected, least = dict(p), 0.0
    for k, name in enumerate(tested):
        least = max(least, min(1.0, p[name] * (len(tested) - k)))
        corrected[name] = least
    return corrected


def median_delay(delays: ArrayLike, epochs: ArrayLike) -> float:
    """The median adaptation delay by Kaplan and Meier's estimate; inf where at most half adapt.

    delays, epochs: of each run, shape [n]. A run whose delay is its number of epochs never adapted:
    its delay is known to be longer, not how long, and no mean may take it for that number. Where
    just half have adapted, the middle between that delay and the next, as of an even count.
    """
    after, total = np.asarray(delays, float), np.asarray(epochs, float)
    if not len(after):
        return float("nan")
    curve = stats.ecdf(stats.CensoredData.right_censored(after, after >= total)).sf
    left = curve.probabilities
    half, more = curve.quantiles[np.isclose(left, 0.5)], curve.quantiles[left < 0.5 - 1e-9]
    if not len(more):
        return float("inf")
    return float(more[0] + (half[0] if len(half) else more[0])) / 2


def wilson(correct: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of an accuracy, in [0, 1]."""
    interval = stats.binomtest(correct, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap(scores: Scores, counts: NDArray[np.int64] | None = None) -> tuple[float, float]:
    """Percentile 95 % interval of the mean of per-image scores of shape [n], images resampled.

    counts: how many images have each score, by default one. Deterministic. Given the difference of
    two settings' scores on the same images, this is the paired bootstrap.
    """
    if counts is None:  # equal scores are drawn together: one attack at 17 strengths has 18
        scores, counts = np.unique(scores, return_counts=True)
    n = int(counts.sum())
    drawn = np.random.default_rng(n).multinomial(n, counts / n, size=RESAMPLES)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn @ scores / n, [tail, 1 - tail])
    return float(low), float(high)


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Exact p-value that two settings get equally many of the same images right."""
    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    if not only_first + only_second:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second).pvalue)


def survival(critical: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """Which images are right at the k-th strength: none of the first k + 1 breaks them."""
    return critical > k


def robustness(
    critical: NDArray[np.int64],
    strengths: Mapping[int, float],
    prior: Sequence[float] | None = None,
) -> Scores:
    """Share of [0, eps_g] each image survives, by the trapezoid of expected robustness: [n].

    strengths: from 0 to eps_g, by their index among those that `critical` counts. prior: their
    weights, in place of the trapezoid. Its mean over images is Acc_[0, eps_g].
    """
    levels, points = np.array([*strengths]), np.array([*strengths.values()])
    right = critical[:, None] > levels
    if prior:
        weighted: Scores = right @ np.array(prior) / sum(prior)
        return weighted
    shares: Scores = (right[:, 1:] + right[:, :-1] * 1.0) @ np.diff(points) / 2 / points[-1]
    return shares
