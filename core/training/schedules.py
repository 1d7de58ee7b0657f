"""Epsilon schedules: which fraction alpha(t) of eps_g the training attack uses at epoch t.

epsilon(t) = alpha(t) * eps_g, with t counted from 0 and constant within an epoch (paper, section
on epsilon-scheduling). Only `auto` has a state; it is part of the checkpoint.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Protocol

from core.config import RunConfig
from core.config.seeds import derive
from core.store.records import EXACT


class EpsilonSchedule(Protocol):
    """alpha in [0, 1] for an epoch; `observe` is called once after each epoch, in order."""

    def alpha(self, epoch: int) -> Fraction: ...

    def observe(self, epoch: int, val_clean: float) -> None: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: dict[str, Any]) -> None: ...


class _Stateless:
    """A schedule known before training starts."""

    def observe(self, epoch: int, val_clean: float) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass


class Standard(_Stateless):
    """No attack at any epoch."""

    def alpha(self, epoch: int) -> Fraction:
        return Fraction(0)


class TwoHinge(_Stateless):
    """0 before T1, linear from T1 to T2, 1 from T2 on.

    T1 = T2 = 0 is a fixed strength, T1 = 0 < T2 a linear warm-up, T1 = T2 > 0 a hard switch.
    """

    def __init__(self, T1: int, T2: int) -> None:
        self.T1, self.T2 = T1, T2

    def alpha(self, epoch: int) -> Fraction:
        if epoch >= self.T2:
            return Fraction(1)
        if epoch < self.T1:
            return Fraction(0)
        return Fraction(epoch - self.T1, self.T2 - self.T1)


class Points(_Stateless):
    """Linear between given (epoch, fraction) points, constant before the first and after the last;
    of two points at one epoch the later one counts from there on."""

    def __init__(self, points: Sequence[tuple[int, Fraction]]) -> None:
        self.points = points

    def alpha(self, epoch: int) -> Fraction:
        before = [point for point in self.points if point[0] <= epoch]
        after = [point for point in self.points if point[0] > epoch]
        if not before or not after:
            return (before[-1] if before else after[0])[1]
        (start, low), (end, high) = before[-1], after[0]
        return low + (high - low) * Fraction(epoch - start, end - start)


class Uniform(_Stateless):
    """alpha ~ U[0, 1], one draw per epoch, from the run's own stream (paper, Table 8)."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def alpha(self, epoch: int) -> Fraction:
        return Fraction(random.Random(derive(self.seed, "schedule", epoch)).random())


class Auto:
    """0 until validation accuracy has converged, then linear to 1 at the last epoch (Table 4).

    Converged after epoch t: none of the last `patience` epochs beat the best one before them by
    more than `tolerance` (absolute). A run that never converges is never attacked.
    """

    def __init__(self, epochs: int, patience: int, tolerance: float) -> None:
        self.last, self.patience, self.tolerance = epochs - 1, patience, tolerance
        self.best = float("-inf")
        self.stale = 0
        self.start: int | None = None

    def alpha(self, epoch: int) -> Fraction:
        if self.start is None or epoch <= self.start:
            return Fraction(0)
        return Fraction(epoch - self.start, self.last - self.start)

    def observe(self, epoch: int, val_clean: float) -> None:
        if self.start is not None:
            return
        if round(val_clean - self.best, EXACT) > self.tolerance:
            self.best, self.stale = val_clean, 0
        else:
            self.stale += 1
        if self.stale >= self.patience:
            self.start = epoch

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "stale": self.stale, "start": self.start}

    def restore(self, state: dict[str, Any]) -> None:
        self.best, self.stale, self.start = state["best"], state["stale"], state["start"]


def make(config: RunConfig) -> EpsilonSchedule:
    """The schedule of a run, before its first epoch."""
    schedule = config.schedule
    match schedule.kind:
        case "standard":
            return Standard()
        case "two_hinge":
            return TwoHinge(schedule.T1, schedule.T2)
        case "points":
            return Points(schedule.points)
        case "uniform":
            return Uniform(config.seed)
        case "auto":
            return Auto(config.epochs, schedule.patience, schedule.tolerance)
