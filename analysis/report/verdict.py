"""Which setting is better: any two levels of an axis of the grid, all else being equal.

Axes are the schedule and every field in which runs of one cell differ (objective, protocol, ...).
Two levels are compared on the same backbone, dataset, eps_g and other axes. A (backbone, dataset)
pair counts once, as the mean over its other axes, as its cells are not independent evidence.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from analysis.cells import Cell, Key
from analysis.intervals import Flags
from analysis.names import (
    METRICS,
    datasets_in_order,
    models_in_order,
    paper_order,
    settings_in_order,
)
from analysis.paper import one_evaluation
from analysis.report.digest import Digests
from analysis.rounding import difference, half_up
from analysis.statistics import CONFIDENCE
from analysis.tables import ABSENT, bracketed
from core.config import ConfigError, Strength
from core.errors import counted

SCHEDULE = "schedule"
SAID = 12
"""Comparisons that are put in words: a grid of many values has hundreds."""
LONG = {"clean": "clean", "adv": "adversarial", "expected": "expected"}


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
    alone: Mapping[tuple[Strength, str], tuple[Key, Key]]
    """(strength, metric) -> its two cells, if there are only two."""
    incomplete: int
    """Number of comparisons left out because one of the two cells is incomplete."""

    @property
    def name(self) -> str:
        """'sched instead of fix', 'objective.kind: trades instead of at'."""
        axis = "" if self.axis == SCHEDULE else f"{self.axis}: "
        return f"{axis}{self.second} instead of {self.first}"


def comparisons(found: Mapping[Key, Cell]) -> list[Comparison]:
    """Every two levels of every axis that have complete cells to compare: schedules first, and
    among them sched against fix. Without standard fine-tuning, which never saw an attack."""
    levels: dict[str, dict[str, None]] = defaultdict(dict)
    cells: dict[tuple[Any, ...], dict[str, Key]] = defaultdict(dict)
    for key in found:
        if key.setting == "standard" or not key.epsilon_g or key.metric not in METRICS:
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


def fields_of(variant: str) -> dict[str, str]:
    """The fields of a variant: 'objective.kind=at, protocol=full' as a dict."""
    parts = re.split(r", (?=[\w.]+=)", variant) if variant else []
    return {name: value for name, _, value in (part.partition("=") for part in parts)}


def _ordered(axis: str, levels: Iterable[str]) -> list[str]:
    return settings_in_order(levels) if axis == SCHEDULE else sorted(levels)


def _compare(
    axis: str,
    two: tuple[str, str],
    groups: Sequence[Mapping[str, Key]],
    found: Mapping[Key, Cell],
) -> Comparison:
    gathered: dict[Strength, dict[str, dict[Pair, list[float]]]] = {}
    alone: dict[tuple[Strength, str], list[tuple[Key, Key]]] = defaultdict(list)
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
        alone[key.strength, key.metric].append(keys)
    means = {
        strength: {
            metric: {pair: float(np.mean(gaps)) for pair, gaps in by_pair.items()}
            for metric, by_pair in sorted(
                by_metric.items(), key=lambda item: METRICS.index(item[0])
            )
        }
        for strength, by_metric in sorted(gathered.items())
    }
    single = {place: keys[0] for place, keys in alone.items() if len(keys) == 1}
    return Comparison(axis, *two, means, single, incomplete)


def effect(gaps: Iterable[float]) -> Effect:
    """The mean of differences (one per pair) with its 95 % interval by Student's t."""
    values = np.round(np.array([*gaps]), 9)
    mean, n = float(values.mean()), len(values)
    low = high = None
    if n > 1:
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))
        low, high = mean - half, mean + half
    return Effect(mean, low, high, n, int((values > 0).sum()))


class Verdict:
    """The comparisons of a sweep as the page shows them."""

    def __init__(self, digests: Digests) -> None:
        self.found, self.metrics = digests.found, digests.metrics
        judged = one_evaluation(digests.results.values)
        self._flags = Flags(digests.results, judged, digests.evaluation)
        self.comparisons = comparisons(self.found)

    def sentences(self) -> list[str]:
        """The first comparisons as sentences; [] if there is nothing to compare."""
        return [self._sentence(one) for one in self.comparisons[:SAID]]

    def _sentence(self, one: Comparison) -> str:
        said = [
            f"at eps_g = {strength}, "
            + ", ".join(
                f"{LONG[m]} accuracy by {self._effect(one, strength, m)}" for m in by_metric
            )
            + f" points over {counted(max(map(len, by_metric.values())), 'backbone-dataset pair')}"
            for strength, by_metric in one.pairs.items()
        ]
        name = f"{one.name[0].upper()}{one.name[1:]}"
        return f"{name} changes, {'; '.join(said)} (95 % intervals)."

    def as_data(self) -> dict[str, Any]:
        """Plain data for the page's script."""
        best = _best(self.found, self.metrics)
        return {
            "metrics": [LONG[metric] for metric in self.metrics],
            "comparisons": [self._comparison(one) for one in self.comparisons],
            "effects": [self._effects()] if self.comparisons else [],
            "best": [best] if best["rows"] else [],
        }

    def _effect(self, comparison: Comparison, strength: Strength, metric: str) -> Effect:
        made = effect(comparison.pairs[strength][metric].values())
        keys = comparison.alone.get((strength, metric))
        if made.n == 1 and keys:  # a single pair: take the interval over its images
            try:
                over_images = self._flags.difference(*keys)
            except ConfigError:
                return made
            return made._replace(low=over_images.low, high=over_images.high)
        return made

    def _comparison(self, one: Comparison) -> dict[str, Any]:
        name = one.name[0].upper() + one.name[1:]
        table = {
            "title": f"{name}: change in points, with its 95 % interval",
            "stub": ["eps_g"],
            "levels": [[(LONG[metric], 1) for metric in self.metrics]],
            "rows": [
                ([str(strength)], [self._entry(one, strength, metric) for metric in self.metrics])
                for strength in one.pairs
            ],
            "notes": [_basis(one)],
        }
        pictures = [
            {
                "strength": str(strength),
                "models": models_in_order(pair.model for pair in _pairs(by_metric)),
                "datasets": datasets_in_order(pair.dataset for pair in _pairs(by_metric)),
                "pairs": [
                    [
                        *pair,
                        *(by_metric.get(metric, {}).get(Pair(*pair)) for metric in self.metrics),
                    ]
                    for pair in _pairs(by_metric)
                ],
            }
            for strength, by_metric in one.pairs.items()
        ]
        return {"name": one.name, "table": table, "pictures": pictures}

    def _entry(self, one: Comparison, strength: Strength, metric: str) -> str:
        if metric not in one.pairs[strength]:
            return ABSENT
        made = self._effect(one, strength, metric)
        text = str(made).replace(" ", "\n", 1)
        return f"{text}; better on {made.better} of {made.n}"

    def _effects(self) -> dict[str, Any]:
        rows = []
        for one in self.comparisons:
            entries = []
            for metric in self.metrics:
                gaps: dict[Pair, list[float]] = defaultdict(list)
                for by_metric in one.pairs.values():
                    for pair, gap in by_metric.get(metric, {}).items():
                        gaps[pair].append(gap)
                entries.append(str(effect(map(np.mean, gaps.values()))) if gaps else ABSENT)
            rows.append(([one.name], entries))
        note = "mean over eps_g and all other axes of the grid; a backbone-dataset pair counts once"
        return {
            "title": "Main effects in points, with 95 % intervals over backbone-dataset pairs",
            "stub": ["Change"],
            "levels": [[(LONG[metric], 1) for metric in self.metrics]],
            "rows": rows,
            "notes": [note],
        }


def _pairs(by_metric: Mapping[str, Mapping[Pair, float]]) -> list[Pair]:
    """In the paper's order."""
    found = paper_order((pair for gaps in by_metric.values() for pair in gaps), Pair._fields)
    return [Pair(*pair) for pair in found]


def _basis(one: Comparison) -> str:
    counts = {len(gaps) for by_metric in one.pairs.values() for gaps in by_metric.values()}
    text = "mean over backbone-dataset pairs with Student's interval, all else in the grid equal"
    if counts == {1}:
        text = "one backbone-dataset pair; the interval is over its images (paired bootstrap)"
    left = f"; {one.incomplete} differences are left out, as one of the two cells is incomplete"
    return text + left * bool(one.incomplete)


def _best(found: Mapping[Key, Cell], metrics: Sequence[str]) -> dict[str, Any]:
    """A table for the page's script: for each eps_g the setting with the highest mean accuracy in
    the last of `metrics` over the pairs on which all settings are complete, with its other
    accuracies there."""
    named = [LONG[metric] for metric in metrics]
    groups: dict[Strength, dict[tuple[str, str], dict[Pair, dict[str, float]]]] = {}
    for key, cell in found.items():
        if key.setting == "standard" or not key.epsilon_g or not cell.complete or cell.constant:
            continue
        settings = groups.setdefault(key.strength, {})
        pairs = settings.setdefault((key.setting, key.variant), {})
        pairs.setdefault(Pair(key.model, key.dataset), {})[key.metric] = cell.value or 0.0
    rows = []
    for strength, settings in sorted(groups.items()):
        whole = {
            name: {pair: one for pair, one in pairs.items() if {*metrics} <= {*one}}
            for name, pairs in settings.items()
        }
        shared = set.intersection(*map(set, whole.values()))
        if not shared:
            continue
        means = {
            name: [float(np.mean([pairs[pair][metric] for pair in shared])) for metric in metrics]
            for name, pairs in whole.items()
        }
        (setting, variant), best = max(means.items(), key=lambda item: item[1][-1])
        name = f"{setting}{bracketed(variant)}"
        entries = [*(str(half_up(value, 1)) for value in best), str(len(shared)), str(len(means))]
        rows.append(([str(strength), name], entries))
    return {
        "title": f"Best setting by {named[-1]} accuracy (%)",
        "stub": ["eps_g", "Setting"],
        "levels": [[(name, 1) for name in (*named, "pairs", "of settings")]],
        "rows": rows,
        "notes": ["means over the pairs on which every setting is complete"],
    }
