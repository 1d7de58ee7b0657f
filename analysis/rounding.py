"""Percent and rounding: half up on exact decimals, as in the paper's tables."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

DIGITS = 2
GUARD = 9
"""Decimals kept before rounding. Accuracies are quotients of counts, so within 1e-9 of a tie is a
tie; this removes floating-point errors (about 1e-14)."""


def percent(fraction: float) -> float:
    """A fraction in percent, without floating-point noise."""
    return round(100 * fraction, GUARD + 1)


def difference(first: float, second: float) -> float:
    """Second minus first in points, without floating-point noise: equal values differ by 0."""
    return round(second - first, GUARD)


def half_up(value: float, digits: int = DIGITS) -> Decimal:
    """`value` with `digits` decimals, ties away from zero: 2.675 -> 2.68, -0.125 -> -0.13."""
    exact = Decimal(f"{value:.{GUARD}f}")
    rounded = exact.quantize(Decimal(1).scaleb(-digits), rounding=ROUND_HALF_UP)
    return abs(rounded) if rounded == 0 else rounded
