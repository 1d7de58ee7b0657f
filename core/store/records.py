"""What the rows that a run writes mean: the arithmetic of accuracies, delays and expectations.

Accuracies are stored as counts with the number of images, never as bare fractions, so that a
partial measurement cannot look complete.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any, Literal, assert_never

from core.config import Strength
from core.config.strength import in_pixels
from core.store.shapes import MetricsRow
from core.store.shapes import ResultRow as ResultRow

DELAY_THRESHOLD = 0.05
"""A run has adapted to its task once validation clean accuracy exceeds 5 % (paper, adaptation
delay), on tasks of at least FEWEST classes; see `threshold` for fewer."""
FEWEST = 100
"""Number of classes of the smallest task in the paper's main tables; chance is 1 % there."""

EXACT = 9
"""Digits to which accuracies are rounded before they are compared, so that rounding errors of
floats (1e-16) do not decide when a share is exactly reached."""


def overall_accuracy(rows: Sequence[Mapping[str, Any]]) -> float:
    """Accuracy in [0, 1] over the images of all rows; for common corruptions with all types on
    every image, this is the mean over types."""
    return float(sum(row["correct"] for row in rows) / sum(row["n"] for row in rows))


Goal = Literal["clean", "adversarial", "expected"]
"""The accuracy on the validation split by which hyper-parameters are chosen."""


def reached(row: MetricsRow, goal: Goal) -> float:
    """The goal's value after an epoch, in [0, 1]; `expected` is estimated by the mean of clean and
    adversarial accuracy."""
    clean = row["val_clean_correct"] / row["val_clean_images"]
    adversarial = row["val_adv_correct"] / row["val_adv_images"]
    match goal:
        case "clean":
            return clean
        case "adversarial":
            return adversarial
        case "expected":
            return (clean + adversarial) / 2
        case _:
            assert_never(goal)


def judged_on(row: MetricsRow, goal: Goal) -> int:
    """The number of images behind the goal's value."""
    attacked = row["val_adv_images"]
    counts = {"clean": row["val_clean_images"], "adversarial": attacked, "expected": attacked}
    return counts[goal]


def threshold(classes: int | None) -> float:
    """Clean accuracy in (0, 1) above which a run has adapted to a task.

    The paper's 5 % for 100 classes or more, and if `classes` is None (unknown). With fewer classes
    chance alone may exceed 5 %, so the threshold is (1 / classes) ** 0.65, a power of chance that
    is 5 % at 100 classes: 6.7 % at 64, 22.4 % at 10, 63.7 % at 2.
    """
    if classes is None or classes >= FEWEST:
        return DELAY_THRESHOLD
    return float(classes ** -math.log(DELAY_THRESHOLD, 1 / FEWEST))


def chance(classes: int | None) -> float:
    """Accuracy in [0, 1] of guessing; taken as 0 for 100 classes or more, as in the paper."""
    return 0.0 if classes is None or classes >= FEWEST else 1 / classes


def classes_in(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """The number of classes that rows of metrics.jsonl record; None if they do not."""
    return next((int(row["classes"]) for row in rows if "classes" in row), None)


def delay(rows: Sequence[Mapping[str, Any]], epochs: int, classes: int | None = None) -> int:
    """Adaptation delay: first epoch (from 0) whose validation clean accuracy exceeds `threshold`;
    `epochs` if none does. classes: number for the threshold, by default that of the rows."""
    limit = threshold(classes or classes_in(rows))
    for row in rows:
        if row["val_clean_correct"] > limit * row["val_clean_images"]:
            return int(row["epoch"])
    return epochs


def curve(rows: Sequence[Mapping[str, Any]]) -> dict[Fraction, float]:
    """Strength, as a number -> accuracy in [0, 1], from the result rows of one evaluation."""
    return {
        Strength.parse(row["epsilon"], row.get("norm", "linf")).number: row["correct"] / row["n"]
        for row in rows
    }


def expected_accuracy(accuracy: Mapping[Fraction, float], epsilon_g: Fraction) -> float:
    """Mean accuracy over eps ~ U[0, eps_g], by the trapezoidal rule on the 1/255 grid.

    For eps_g = k/255: (Acc_0/2 + Acc_1 + ... + Acc_{k-1} + Acc_k/2) / k (paper, expected
    robustness). accuracy: strength -> value in [0, 1]. Raises ValueError if eps_g is not a positive
    multiple of 1/255, or a strength on the grid is missing, since a coarser grid gives another
    value.
    """
    grid = unit_grid(epsilon_g)
    missing = [str(Strength(eps)) for eps in grid if eps not in accuracy]
    if missing:
        raise ValueError(f"no accuracy measured at {', '.join(missing)}")
    values = [accuracy[eps] for eps in grid]
    return (sum(values) - (values[0] + values[-1]) / 2) / (len(grid) - 1)


def expected_over(
    accuracy: Mapping[Fraction, float], prior: Sequence[float] | None = None
) -> float:
    """Mean accuracy over all strengths of a curve, of any norm.

    prior: a weight per strength, in ascending order of strengths; None means eps ~ U[0, largest],
    by the trapezoidal rule for any spacing. Raises ValueError if there are fewer than two strengths
    and no prior, or if the weights do not match.
    """
    grid = sorted(accuracy)
    if prior is not None:
        if len(prior) != len(grid) or not sum(prior) > 0:
            raise ValueError(f"expected {len(grid)} weights, not all 0, got {list(prior)}")
        return sum(w * accuracy[eps] for w, eps in zip(prior, grid, strict=True)) / sum(prior)
    if len(grid) < 2:
        raise ValueError(f"expected at least two strengths, got {len(grid)}")
    parts = (float(b - a) * (accuracy[a] + accuracy[b]) / 2 for a, b in pairwise(grid))
    return sum(parts) / float(grid[-1] - grid[0])


def expected_exactly(rows: Sequence[Mapping[str, Any]], epsilon: Strength) -> float | None:
    """Exact expected accuracy over U[0, epsilon] from the rows of an evaluation; None unless it
    measured distances and has a row at that strength."""
    for row in rows:
        if "expected" in row and Strength.parse(row["epsilon"], epsilon.norm) == epsilon:
            return float(row["expected"])
    return None


def expected_up_to(
    accuracy: Mapping[Fraction, float],
    epsilon: Strength,
    prior: Sequence[float] | None = None,
) -> float:
    """Expected accuracy over the strengths of a curve up to `epsilon`.

    prior: a weight per strength of the whole curve; None means eps ~ U[0, epsilon], for l-inf on
    the 1/255 grid, else by the trapezoidal rule on the strengths measured. Raises ValueError if
    strengths are missing or all weights up to `epsilon` are 0.
    """
    below = {eps: value for eps, value in accuracy.items() if eps <= epsilon.number}
    if prior is None:
        on_grid = in_pixels(epsilon.norm)
        return expected_accuracy(below, epsilon.number) if on_grid else expected_over(below)
    if not any(prior[: len(below)]):
        raise ValueError(f"the prior has no weight up to {epsilon}")
    return expected_over(below, prior[: len(below)])


@cache
def unit_grid(epsilon_g: Fraction) -> tuple[Fraction, ...]:
    """0, 1/255, ..., eps_g. Raises ValueError unless eps_g is a positive multiple of 1/255."""
    k = epsilon_g * 255
    if k.denominator != 1 or k < 1:
        raise ValueError(f"expected eps_g = k/255 with k >= 1, got {epsilon_g}")
    return tuple(Strength.parse(f"{i}/255").number for i in range(int(k) + 1))


def batchnorm_images(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """The distinct numbers of images per BatchNorm statistic in a training, largest first; [] for
    networks without BatchNorm and for runs that did not record them."""
    return sorted({n for row in rows for n in row.get("batchnorm_images") or ()}, reverse=True)
