"""Epsilon schedules: which fraction alpha(t) of eps_g the training attack uses at epoch t.

epsilon(t) = alpha(t) * eps_g, with t counted from 0 and alpha constant within an epoch (paper,
section on epsilon-scheduling). The paper's schedules are here, others that adapt to the training in
core.training.adaptive. The state of an adaptive schedule is part of the checkpoint.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from core.config import ConfigError, RunConfig, own_code
from core.config.seeds import derive
from core.store.records import EXACT
from core.training.adaptive import Curriculum, Friendly, Instance, Target
from core.training.epsilon_schedule import EpsilonSchedule, Seen, hinged

__all__ = ["EpsilonSchedule", "Seen"]  # imported from here by users' schedules


class Standard(EpsilonSchedule):
    """No attack at any epoch."""

    def alpha(self, epoch: int) -> Fraction:
        return Fraction(0)

    def rehearsed(self) -> tuple[int, dict[str, Any]]:
        return 1, {}


class Untrained(Standard):
    """No epochs. A dry run trains one epoch with `standard`, so that it needs no head from a
    file."""

    def rehearsed(self) -> tuple[int, dict[str, Any]]:
        return 1, {"kind": "standard"}


class TwoHinge(EpsilonSchedule):
    """The paper's schedule: 0 before T1, linear from T1 to T2, 1 from T2 on.

    T1 = T2 = 0 is a fixed strength, T1 = 0 < T2 a linear warm-up, T1 = T2 > 0 a hard switch.
    """

    def __init__(self, T1: int, T2: int) -> None:
        self.T1, self.T2 = T1, T2

    def alpha(self, epoch: int) -> Fraction:
        return hinged(epoch, self.T1, self.T2)

    def rehearsed(self) -> tuple[int, dict[str, Any]]:
        epochs, _ = super().rehearsed()
        return epochs, {"T1": 0, "T2": 2 if epochs > 1 else 0}


class Points(EpsilonSchedule):
    """Linear between given (epoch, fraction) points, constant before the first and after the last.
    Of two points at one epoch, the second applies from that epoch on."""

    def __init__(self, points: Sequence[tuple[int, Fraction]]) -> None:
        self.points = points

    def alpha(self, epoch: int) -> Fraction:
        before = [point for point in self.points if point[0] <= epoch]
        after = [point for point in self.points if point[0] > epoch]
        if not before or not after:
            return (before[-1] if before else after[0])[1]
        (start, low), (end, high) = before[-1], after[0]
        return low + (high - low) * Fraction(epoch - start, end - start)

    def rehearsed(self) -> tuple[int, dict[str, Any]]:
        epochs, _ = super().rehearsed()
        return epochs, {"points": ((0, Fraction(epochs == 1)), (1, Fraction(1)))}


class Uniform(EpsilonSchedule):
    """alpha ~ U[0, 1], drawn for each epoch from the run's seed (paper, Table 8)."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def alpha(self, epoch: int) -> Fraction:
        return Fraction(random.Random(derive(self.seed, "schedule", epoch)).random())


class Auto(EpsilonSchedule):
    """0 until validation accuracy has converged, then linear to 1 at the last epoch (Table 4).

    It has converged after epoch t if none of the last `patience` epochs exceeded the best accuracy
    before them by more than `tolerance` (absolute). A run that never converges is never attacked.
    """

    def __init__(self, epochs: int, patience: int, tolerance: float) -> None:
        self.last, self.epochs_to_wait, self.tolerance = epochs - 1, patience, tolerance
        self.best = float("-inf")
        self.stale = 0
        self.start: int | None = None

    def alpha(self, epoch: int) -> Fraction:
        if self.start is None or epoch <= self.start:
            return Fraction(0)
        return Fraction(epoch - self.start, self.last - self.start)

    def observe(self, seen: Seen) -> None:
        if self.start is not None:
            return
        if round(seen.val_clean - self.best, EXACT) > self.tolerance:
            self.best, self.stale = seen.val_clean, 0
        else:
            self.stale += 1
        if self.stale >= self.epochs_to_wait:
            self.start = seen.epoch

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "stale": self.stale, "start": self.start}

    def restore(self, state: dict[str, Any]) -> None:
        self.best, self.stale, self.start = state["best"], state["stale"], state["start"]

    def attacked_epochs(self, epochs: int) -> int:
        """An upper bound: at least `patience` epochs after the first come before convergence."""
        return max(0, epochs - self.epochs_to_wait - 1)

    def rehearsed(self) -> tuple[int, dict[str, Any]]:
        """Three epochs: it converges after the second and attacks in the third."""
        return 3, {"patience": 1, "tolerance": 0.99}


KINDS: dict[str, type[EpsilonSchedule]] = {
    "none": Untrained,
    "standard": Standard,
    "two_hinge": TwoHinge,
    "points": Points,
    "uniform": Uniform,
    "auto": Auto,
    "target": Target,
    "curriculum": Curriculum,
    "instance": Instance,
    "friendly": Friendly,
}


def make(config: RunConfig) -> EpsilonSchedule:
    """The schedule of a run, in its state before the first epoch. Raises ConfigError if a
    user-defined one cannot be created."""
    fields = {name: getattr(config.schedule, name) for name in type(config.schedule).model_fields}
    facts = fields | {"epochs": config.epochs, "seed": config.seed}
    made: EpsilonSchedule = own_code.make(
        "schedule", KINDS, config.schedule.kind, config.schedule.knobs, facts
    )
    return made


def check(config: RunConfig) -> None:
    """Raises ConfigError if a user-defined schedule cannot be created, raises an error, or leaves
    [0, 1], as far as can be checked before training."""
    schedule = make(config)
    with own_code.blamed(config.schedule.kind):
        for epoch in range(config.epochs):
            alpha(schedule, epoch)
        schedule.attacked_epochs(config.epochs)
        schedule.rehearsed()


def alpha(schedule: EpsilonSchedule, epoch: int) -> Fraction:
    """The exact alpha at an epoch. Raises ConfigError if it is not in [0, 1]."""
    found = schedule.alpha(epoch)
    if not 0 <= found <= 1:
        name = type(schedule).__name__
        raise ConfigError(
            f"schedule {name}: expected alpha in [0, 1] at epoch {epoch}, got {found}"
        )
    return Fraction(found)
