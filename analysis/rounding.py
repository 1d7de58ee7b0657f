"""Percent and rounding: half up on exact decimals, as in the paper's tables."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

DIGITS = 2
GUARD = 9
"""Digits kept before rounding. Accuracies are quotients of counts: closer to a tie than 1e-9 is a
tie, and what a float adds (about 1e-14) is gone."""


def percent(fraction: float) -> float:
    """A fraction in percent, free of the noise of floating-point sums."""
    return round(100 * fraction, GUARD + 1)


def difference(first: float, second: float) -> float:
    """Second minus first in points, free of that noise too: equal values differ by 0."""
    return round(second - first, GUARD)


def half_up(value: float, digits: int = DIGITS) -> Decimal:
    """`value` with `digits` decimals, ties away from zero: 2.675 -> 2.68, -0.125 -> -0.13."""
    exact = Decimal(f"{value:.{GUARD}f}")
    rounded = exact.quantize(Decimal(1).scaleb(-digits), rounding=ROUND_HALF_UP)
    return abs(rounded) if rounded == 0 else rounded
