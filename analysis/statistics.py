"""Uncertainty of numbers: tests over (model, dataset) pairs, and intervals over images.

If there are per-image flags, images are the unit: two settings are compared on the same images, and
several seeds are first averaged per image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from analysis.rounding import GUARD

CONFIDENCE = 0.95
RESAMPLES = 2000

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class PairedTest:
    """sched against fix over n pairs: t-test, Wilcoxon signed-rank test, and effect size."""

    n: int
    difference: float
    """Mean of second minus first, in points."""
    t: float
    p: float
    wilcoxon: float
    wilcoxon_p: float
    effect: float
    """Cohen's d: mean of the differences divided by their sample standard deviation."""


def paired_test(first: NDArray[np.float64], second: NDArray[np.float64]) -> PairedTest:
    """Two-sided tests of second against first: accuracies in percent, shape [n], n >= 2 pairs.

    Without spread, i.e. if all differences are equal, the statistics are nan.
    """
    # Rounded, so that floating-point noise neither breaks ties nor separates equal values.
    differences = np.round(second - first, GUARD)
    spread = differences.std(ddof=1)
    nan = float("nan")
    if np.isclose(spread, 0):
        return PairedTest(len(first), float(differences.mean()), nan, nan, nan, nan, nan)
    t = scipy.stats.ttest_1samp(differences, 0)
    w = scipy.stats.wilcoxon(differences)
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

    The k-th smallest of m is multiplied by m - k + 1; a result below that of a smaller p is raised
    to it.
    """
    tested = sorted((name for name in p if not np.isnan(p[name])), key=p.__getitem__)
    corrected, least = dict(p), 0.0
    for k, name in enumerate(tested):
        least = max(least, min(1.0, p[name] * (len(tested) - k)))
        corrected[name] = least
    return corrected


def median_delay(delays: ArrayLike, epochs: ArrayLike) -> float:
    """The Kaplan-Meier estimate of the median adaptation delay; inf if at most half adapt, nan
    without runs.

    delays, epochs: of each run, shape [n]. A run whose delay equals its number of epochs never
    adapted, so its true delay is longer (right-censored). If exactly half have adapted by some
    delay, the median is the middle between that delay and the next, as for an even number.
    """
    after, total = np.asarray(delays, float), np.asarray(epochs, float)
    if not len(after):
        return float("nan")
    # scipy.stats.ecdf estimates the same, but takes 0.6 s to import, and reports need it.
    times, adapted = np.unique(after[after < total], return_counts=True)
    left = np.cumprod(1 - adapted / (after >= times[:, None]).sum(1))
    half, more = times[np.isclose(left, 0.5)], times[left < 0.5 - 1e-9]
    if not len(more):
        return float("inf")
    return float(more[0] + (half[0] if len(half) else more[0])) / 2


def wilson(correct: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of the accuracy correct / n, in [0, 1]."""
    interval = scipy.stats.binomtest(correct, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap(scores: Scores, counts: NDArray[np.int64] | None = None) -> tuple[float, float]:
    """95 % percentile interval of the mean of per-image scores of shape [n], by resampling images.

    counts: how many images have each score, by default one. Deterministic. For differences of two
    settings' scores on the same images, this is the paired bootstrap.
    """
    return percentiles(resampled(scores, counts))


def resampled(
    scores: Scores, counts: NDArray[np.int64] | None = None, *, sample: int = 0
) -> Scores:
    """Means of RESAMPLES resamples, as `bootstrap` draws them. sample: number of the sample of
    images, for several that are drawn apart."""
    if counts is None:  # equal scores are drawn together: 17 strengths give at most 18
        scores, counts = np.unique(scores, return_counts=True)
    n = int(counts.sum())
    generator = np.random.default_rng([n, sample] if sample else n)
    drawn: Scores = generator.multinomial(n, counts / n, size=RESAMPLES) @ scores / n
    return drawn


def percentiles(means: Scores) -> tuple[float, float]:
    """95 % interval from means of resamples."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """p-value of McNemar's exact test that two settings are equally accurate. first, second:
    whether each classifies each of the same images correctly, shape [n]."""
    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    if not only_first + only_second:
        return 1.0
    return float(scipy.stats.binomtest(only_first, only_first + only_second).pvalue)


def survival(critical: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """Which images are right at strength k (from 0): none of the first k + 1 strengths breaks
    them."""
    return critical > k


def robustness(
    critical: NDArray[np.int64],
    strengths: Mapping[int, float],
    prior: Sequence[float] | None = None,
) -> Scores:
    """Share of [0, eps_g] that each image survives, by the trapezoid rule; shape [n]. Its mean over
    images is expected robustness, Acc_[0, eps_g].

    critical: index of the first strength that breaks each image, shape [n]. strengths: such index
    -> strength, from 0 to eps_g. prior: weights of the strengths, instead of the trapezoid rule.
    """
    levels, points = np.array([*strengths]), np.array([*strengths.values()])
    right = critical[:, None] > levels
    if prior:
        weighted: Scores = right @ np.array(prior) / sum(prior)
        return weighted
    shares: Scores = (right[:, 1:] + right[:, :-1] * 1.0) @ np.diff(points) / 2 / points[-1]
    return shares
