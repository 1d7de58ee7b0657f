"""Schedules that adapt to the training: they end when `sched` does, but choose the path to eps_g.

The deadline matters: the paper's `auto` reaches eps_g only at the last epoch, where the learning
rate is 0, and has less expected robustness than `sched` (Table 4). `target` and `curriculum` are at
eps_g from T2 of `sched` on, for the last quarter of the training, and `instance` may go up to it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from core.config.schedule import sched_hinges
from core.store.records import threshold
from core.training.epsilon_schedule import HELD, EpsilonSchedule, Seen, hinged

LEARNT = 0.9
"""Share of the best validation accuracy so far at which the task counts as learnt. The paper chose
T1 by this share of standard fine-tuning's final accuracy, which a run cannot know."""
FINEST = 10**6
"""Fractions computed from accuracies are rounded to at most this denominator; those of `sched` have
far smaller ones."""
LEVELS = 8
"""Number of steps of `curriculum` from 0 to eps_g."""


class Ramp(EpsilonSchedule):
    """Rises from 0 to 1 at T2 of `sched`. Begins after T1 or, if `listens`, as soon as the task is
    learnt: validation accuracy has exceeded the threshold of adaptation, and a twelfth of the
    training ago it was already at 90 % of its best value so far or above."""

    listens = True

    def __init__(self, epochs: int) -> None:
        self.T1, self.T2 = sched_hinges(epochs)
        self.wait = max(1, epochs // 12)
        self.cleans: list[float] = []  # validation accuracy by epoch
        self.begun = False
        self.reference = 0.0  # best validation accuracy when the ramp began
        self.now = Fraction(self.T2 == 0)  # alpha of the next epoch

    @abstractmethod
    def after(self, seen: Seen) -> Fraction:
        """alpha of the epoch after `seen`; called on the ramp only."""

    def alpha(self, epoch: int) -> Fraction:
        """alpha of the next epoch; for later ones an estimate, linear up to the deadline."""
        following = len(self.cleans)
        start = following if self.begun else max(self.T1, following)
        if epoch <= start and epoch < self.T2:
            return self.now
        return self.now + (1 - self.now) * hinged(epoch, start, self.T2)

    def observe(self, seen: Seen) -> None:
        self.cleans.append(seen.val_clean)
        following = seen.epoch + 1
        if not self.begun and (following > self.T1 or (self.listens and self._is_learnt(seen))):
            self.begun, self.reference = True, max(self.cleans)
        if following >= self.T2:
            self.now = Fraction(1)
        elif self.begun:
            self.now = min(Fraction(1), self.after(seen).limit_denominator(FINEST))

    def hold_of(self, seen: Seen) -> float | None:
        """Training accuracy under attack, as a share of the clean validation accuracy when the ramp
        began; None after an epoch without attack."""
        if seen.train_adv is None:
            return None
        return seen.train_adv / self.reference if self.reference else 0.0

    def _is_learnt(self, seen: Seen) -> bool:
        best, earlier = max(self.cleans), self.cleans[: -self.wait]
        return best > threshold(seen.classes) and max(earlier, default=0.0) >= LEARNT * best

    def state(self) -> dict[str, Any]:
        known = {"begun": self.begun, "reference": self.reference, "now": str(self.now)}
        return {"cleans": [*self.cleans], **known}

    def restore(self, state: dict[str, Any]) -> None:
        self.cleans, self.begun = [*state["cleans"]], state["begun"]
        self.reference, self.now = state["reference"], Fraction(state["now"])

    def attacked_epochs(self, epochs: int) -> int:
        """An upper bound: as if the task were learnt at the earliest possible epoch."""
        earliest = min(self.T1, self.wait) if self.listens else self.T1
        return max(0, epochs - earliest - 1)

    def rehearsed(self) -> tuple[int, dict[str, Any]]:
        """Four epochs: without attack, on the ramp, and at full strength."""
        return 4, {}


class Target(Ramp):
    """A controller: the ramp is faster while training accuracy under attack is high, and slower
    while it is low, by a factor of up to 2**gain.

    With u = (share - hold) / (1 - hold), clipped to [-1, 1], where share is that of `hold_of`, the
    step after epoch t is 2**(gain u) (1 - alpha) / (T2 - t). gain = 0 ignores the training and is
    exactly `sched`.
    """

    def __init__(self, epochs: int, hold: float, gain: float) -> None:
        super().__init__(epochs)
        self.hold, self.gain, self.listens = hold, gain, gain > 0

    def after(self, seen: Seen) -> Fraction:
        share = self.hold_of(seen)
        lead = 0.0 if share is None else (share - self.hold) / (1 - self.hold)
        factor = Fraction(2.0 ** (self.gain * max(-1.0, min(1.0, lead))))
        return self.now + factor * (1 - self.now) / (self.T2 - seen.epoch)


class Curriculum(Ramp):
    """Rises in eighths of eps_g: to the next one when training accuracy under attack is high
    enough, at the latest when `sched` has reached it. After Cai et al. 2018, whose lessons are
    numbers of attack steps."""

    def __init__(self, epochs: int, hold: float) -> None:
        super().__init__(epochs)
        self.hold = hold

    def after(self, seen: Seen) -> Fraction:
        share = self.hold_of(seen)
        learnt = share is None or share >= self.hold
        due = hinged(seen.epoch + 1, self.T1, self.T2) * LEVELS // 1
        return max(self.now + Fraction(learnt, LEVELS), Fraction(due, LEVELS))


class Instance(EpsilonSchedule):
    """A strength for each training image (Balaji et al. 2019, Cheng et al. 2022), at most that of
    `sched`. An image is attacked one level, of `levels`, above the highest that it has withstood.
    One attack per training step, as in every other schedule."""

    def __init__(self, epochs: int, levels: int) -> None:
        self.T1, self.T2 = sched_hinges(epochs)
        self.levels = levels
        self.held: list[int] = []  # highest level withstood, by image; in steps of eps_g / levels

    def alpha(self, epoch: int) -> Fraction:
        return hinged(epoch, self.T1, self.T2)

    def strengths(self, epoch: int, images: int) -> Sequence[Fraction]:
        self.held = self.held or [0] * images
        cap = self.alpha(epoch)
        tried = [min(cap, Fraction(level + 1, self.levels)) for level in range(self.levels + 1)]
        return [tried[level] for level in self.held]

    def observe(self, seen: Seen) -> None:
        highest = int(self.alpha(seen.epoch) * self.levels)
        for image, fate in enumerate(seen.fates):
            if fate == HELD and self.held[image] < highest:
                self.held[image] += 1

    def state(self) -> dict[str, Any]:
        return {"held": [*self.held]}

    def restore(self, state: dict[str, Any]) -> None:
        self.held = [*state["held"]]

    def rehearsed(self) -> tuple[int, dict[str, Any]]:
        return 4, {}


class Friendly(EpsilonSchedule):
    """Friendly adversarial training (Zhang et al. 2020): eps_g throughout, but the attack on an
    image ends at its first success, and its last point is used; from epoch 50 of 120 on it ends one
    step later, and from 90 on two."""

    def __init__(self, epochs: int) -> None:
        self.turns = 50 * epochs / 120, 90 * epochs / 120

    def alpha(self, epoch: int) -> Fraction:
        return Fraction(1)

    def stop_after(self, epoch: int) -> int:
        return sum(epoch >= turn for turn in self.turns)

    def rehearsed(self) -> tuple[int, dict[str, Any]]:
        return 3, {}
