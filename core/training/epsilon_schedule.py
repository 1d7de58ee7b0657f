"""What every epsilon schedule answers, and what it may learn from the epochs behind it.

Torch-free: plans and estimates ask schedules, too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

BROKEN, HELD = 1, 2
"""What an epoch's attack did to a training image; 0 if the image was not attacked."""


@dataclass(frozen=True)
class Seen:
    """What an epoch showed. Accuracies are shares in [0, 1]; those on training images were measured
    in evaluation mode on the way through the training attack, and are None in an epoch without."""

    epoch: int
    classes: int
    val_clean: float
    val_adv: float
    """Under the validation attack, at `validation.epsilon` (eps_g unless a grid says otherwise)."""
    train_clean: float | None
    train_adv: float | None
    """Right at every point that the training attack looked at."""
    fates: Sequence[int] = ()
    """BROKEN or HELD for each training image, 0 for one that was left out; () unless the schedule
    gives every image a strength of its own."""


def hinged(epoch: int, T1: int, T2: int) -> Fraction:
    """0 before T1, linear from T1 to T2, 1 from T2 on."""
    if epoch >= T2:
        return Fraction(1)
    return Fraction(epoch - T1, T2 - T1) if epoch > T1 else Fraction(0)


class EpsilonSchedule(ABC):
    """A schedule; as it is here one that is known before training starts. An own one inherits this.

    Its arguments are knobs (the fields of its config), and what a run tells every schedule that
    asks for it by name: `epochs` and `seed`.
    """

    @abstractmethod
    def alpha(self, epoch: int) -> Fraction | float:
        """The fraction of eps_g, in [0, 1], at an epoch that is counted from 0."""

    def strengths(self, epoch: int, images: int) -> Sequence[Fraction] | None:
        """A fraction for each of so many training images, none above `alpha`; None if all have
        that one. Asked only in epochs in which alpha is not 0."""
        return None

    def stop_after(self, epoch: int) -> int | None:
        """Steps that the training attack goes on after an image is first classified wrongly; None
        for all of `attack.steps`, from which the point of highest loss is taken."""
        return None

    def observe(self, seen: Seen) -> None:  # noqa: B027  may stay empty
        """Called once after each epoch, in order."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: numbers and text, none of which follows from the arguments."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Go on from a `state`."""

    def attacked_epochs(self, epochs: int) -> int:
        """How many of the first `epochs` have an attack, as far as is known beforehand."""
        return sum(self.alpha(epoch) > 0 for epoch in range(epochs))

    def rehearsed(self) -> tuple[int, dict[str, Any]]:
        """For a dry run: as few epochs as show every phase, and the fields to change for them."""
        return (2 if self.alpha(0) == 0 else 1), {}
