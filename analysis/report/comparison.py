"""Any two levels of an axis of a grid compared, all else being equal.

Axes are the schedule and every field in which runs of one cell differ (objective, protocol, ...).
Two levels are compared on the same backbone, dataset, eps_g and other axes. A (backbone, dataset)
pair counts once, as the mean over its other axes, as its cells are not independent evidence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from analysis.cells import Cell, Key
from analysis.names import METRICS, settings_in_order
from analysis.rounding import difference, half_up
from analysis.statistics import CONFIDENCE
from analysis.variants import fields_of
from core.config import Strength

SCHEDULE = "schedule"


class Pair(NamedTuple):
    """A (backbone, dataset) pair, the unit of comparisons."""

    model: str
    dataset: str


class Effect(NamedTuple):
    """Second level minus first in points: mean over `n` pairs with its 95 % interval."""

    mean: float
    low: float | None
    """None for a single pair without an interval over its images."""
    high: float | None
    n: int
    better: int
    """Number of pairs on which the second level is better."""

    def __str__(self) -> str:
        interval = "" if self.low is None else f" [{self.low:+.1f}, {self.high:+.1f}]"
        return f"{half_up(self.mean, 1):+}{interval}"


@dataclass(frozen=True)
class Comparison:
    """Two levels of one axis. pairs: strength -> metric -> pair -> second minus first in points."""

    axis: str
    first: str
    second: str
    pairs: Mapping[Strength, Mapping[str, Mapping[Pair, float]]]
    cells: Mapping[tuple[Strength, str], Sequence[tuple[Key, Key]]]
    """(strength, metric) -> the pairs of cells that are compared."""
    incomplete: int
    """Number of comparisons left out because one of the two cells is incomplete."""

    @property
    def name(self) -> str:
        """'sched instead of fix', 'objective.kind: trades instead of at'."""
        axis = "" if self.axis == SCHEDULE else f"{self.axis}: "
        return f"{axis}{self.second} instead of {self.first}"


def comparisons(found: Mapping[Key, Cell]) -> list[Comparison]:
    """Every two levels of every axis that have complete cells to compare: schedules first, and
    among them sched against fix. With standard fine-tuning, which never saw an attack, only if
    there is nothing else to compare."""
    attacked = {key: cell for key, cell in found.items() if key.setting != "standard"}
    return _comparisons(attacked) or _comparisons(found)


def _comparisons(found: Mapping[Key, Cell]) -> list[Comparison]:
    levels: dict[str, dict[str, None]] = defaultdict(dict)
    cells: dict[tuple[Any, ...], dict[str, Key]] = defaultdict(dict)
    for key in found:
        if not key.epsilon_g or key.metric not in METRICS:
            continue
        axes = {SCHEDULE: key.setting, **fields_of(key.variant)}
        for axis, level in axes.items():
            levels[axis][level] = None
            others = tuple((name, value) for name, value in axes.items() if name != axis)
            cells[axis, others, key._replace(setting="", variant="")][level] = key
    # Only levels that occur together: a tuned grid has as many learning rates as cells.
    places = {
        axis: {level: place for place, level in enumerate(_ordered(axis, levels[axis]))}
        for axis in levels
    }
    met: dict[tuple[str, tuple[str, str]], list[Mapping[str, Key]]] = defaultdict(list)
    for (axis, *_), group in cells.items():
        for first, second in combinations(sorted(group, key=lambda one: places[axis][one]), 2):
            met[axis, (first, second)].append(group)
    axes_in_order = [SCHEDULE, *(axis for axis in levels if axis != SCHEDULE)]
    made = [
        _compare(axis, two, met[axis, two], found)
        for axis in axes_in_order
        for two in sorted(
            (two for other, two in met if other == axis),
            key=lambda two: [places[axis][level] for level in two],
        )
    ]
    return [one for one in made if one.pairs]


def _ordered(axis: str, levels: Iterable[str]) -> list[str]:
    return settings_in_order(levels) if axis == SCHEDULE else sorted(levels)


def _compare(
    axis: str,
    two: tuple[str, str],
    groups: Sequence[Mapping[str, Key]],
    found: Mapping[Key, Cell],
) -> Comparison:
    gathered: dict[Strength, dict[str, dict[Pair, list[float]]]] = {}
    cells: dict[tuple[Strength, str], list[tuple[Key, Key]]] = defaultdict(list)
    incomplete = 0
    for group in groups:
        if not {*two} <= {*group}:
            continue
        keys = group[two[0]], group[two[1]]
        first, second = (found[key] for key in keys)
        if not (first.complete and second.complete) or first.value is None or second.value is None:
            incomplete += 1
            continue
        key = keys[0]
        by_metric = gathered.setdefault(key.strength, {})
        by_pair = by_metric.setdefault(key.metric, {})
        gap = difference(first.value, second.value)
        by_pair.setdefault(Pair(key.model, key.dataset), []).append(gap)
        cells[key.strength, key.metric].append(keys)
    means = {
        strength: {
            metric: {pair: float(np.mean(gaps)) for pair, gaps in by_pair.items()}
            for metric, by_pair in sorted(
                by_metric.items(), key=lambda item: METRICS.index(item[0])
            )
        }
        for strength, by_metric in sorted(gathered.items())
    }
    return Comparison(axis, *two, means, cells, incomplete)


def effect(gaps: Iterable[float]) -> Effect:
    """The mean of differences in points (one per pair), with its 95 % interval by Student's t,
    which is cut to [-100, 100]."""
    values = np.round(np.array([*gaps]), 9)
    mean, n = float(values.mean()), len(values)
    low = high = None
    if n > 1:
        half = float(special.stdtrit(n - 1, (1 + CONFIDENCE) / 2) * values.std(ddof=1) / np.sqrt(n))
        low, high = max(-100.0, mean - half), min(100.0, mean + half)
    return Effect(mean, low, high, n, int((values > 0).sum()))
