"""The interface of epsilon schedules, and what they learn from each epoch.

Torch-free, since plans and estimates use schedules, too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

BROKEN, HELD = 1, 2
"""Outcome of an epoch's attack on a training image; 0 if the image was not attacked."""


@dataclass(frozen=True)
class Seen:
    """Results of an epoch. Accuracies are in [0, 1]; those on training images are measured in
    evaluation mode during the training attack, and None in an epoch without attack."""

    epoch: int
    classes: int
    val_clean: float
    val_adv: float
    """Accuracy under the validation attack, at `validation.epsilon` (by default eps_g)."""
    train_clean: float | None
    train_adv: float | None
    """Share of images classified correctly at every point of the training attack."""
    fates: Sequence[int] = ()
    """BROKEN or HELD for each training image, 0 for one that was not used; () unless the schedule
    has `strengths`."""


def hinged(epoch: int, T1: int, T2: int) -> Fraction:
    """alpha of a two-hinge schedule: 0 before T1, linear from T1 to T2, 1 from T2 on (paper).

    >>> [str(hinged(epoch, 1, 3)) for epoch in range(5)]
    ['0', '0', '1/2', '1', '1']
    """
    if epoch >= T2:
        return Fraction(1)
    return Fraction(epoch - T1, T2 - T1) if epoch > T1 else Fraction(0)


class EpsilonSchedule(ABC):
    """Base of all schedules, built-in and user-defined. The methods other than `alpha` are those of
    a schedule that ignores how the training goes.

    Arguments of the constructor: knobs (other keys of the mapping in the grid), and `epochs` and
    `seed` of the run if it has parameters of these names.

    >>> class Half(EpsilonSchedule):
    ...     def __init__(self, epochs: int) -> None:
    ...         self.epochs = epochs
    ...
    ...     def alpha(self, epoch: int) -> float:
    ...         return 0.0 if 2 * epoch < self.epochs else 1.0
    >>> Half(epochs=10).attacked_epochs(10)
    5
    """

    @abstractmethod
    def alpha(self, epoch: int) -> Fraction | float:
        """The fraction of eps_g, in [0, 1], at an epoch, counted from 0."""

    def strengths(self, epoch: int, images: int) -> Sequence[Fraction] | None:
        """A fraction of eps_g for each of `images` training images, at most `alpha`; None if all
        have `alpha`. Called only in epochs with alpha > 0."""
        return None

    def stop_after(self, epoch: int) -> int | None:
        """How many steps the training attack on an image continues after its first misclassified
        point; None: it takes all `attack.steps` and returns the point of highest loss."""
        return None

    def observe(self, seen: Seen) -> None:  # noqa: B027  may stay empty
        """Called once after each epoch, in order."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must store to resume: plain numbers and text, without the arguments."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Continue from the output of `state`."""

    def attacked_epochs(self, epochs: int) -> int:
        """Number of the first `epochs` epochs with an attack, for cost estimates; an upper bound if
        it depends on the training."""
        return sum(self.alpha(epoch) > 0 for epoch in range(epochs))

    def rehearsed(self) -> tuple[int, dict[str, Any]]:
        """For a dry run: the smallest number of epochs that has every phase, and config fields to
        change for that."""
        return (2 if self.alpha(0) == 0 else 1), {}
