"""How FMN's steps are divided among descents towards several classes, and what they cost.

In l-inf two long descents end as near as three or four shorter ones on networks of 32 pixels
(within 0.5 %), and 0.9 % nearer than three at 224 pixels. In l2 and l1 a descent ends in one of
many local minima, so more are better although they are shorter.
"""

from __future__ import annotations

from core.config.strength import Norm

DESCENTS: dict[Norm, int] = {"linf": 2, "l2": 5, "l1": 9}
"""Number of classes, at most, towards each of which FMN descends."""
SHORTEST = 20
"""Steps that a descent has at least: with fewer it ends before it has come near."""
IN_L1 = 216
"""Steps of FMN in l1 by default."""
RIVALS = 9
"""Number of classes that FMN ranks. Each costs a gradient; more than nine change no distance."""
DEEPFOOL = 12, 2
"""Gradients per image outside the steps of FMN: nine to rank classes, three for the final
bisection; and for each descent one or two steps of DeepFool."""


def descents(norm: Norm, steps: int, rivals: int = RIVALS) -> int:
    """Number of descents, each towards a different one of `rivals` classes, among which FMN's steps
    are divided.

    >>> descents("linf", 100), descents("l2", 100), descents("l2", 30)
    (2, 5, 1)
    """
    return max(1, min(steps // SHORTEST, DESCENTS[norm], rivals))


def gradients(norm: Norm, steps: int) -> int:
    """Gradients that FMN computes for an image, about."""
    once, per_descent = DEEPFOOL
    return steps + once + per_descent * descents(norm, steps)
