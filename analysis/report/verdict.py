"""Which setting of a sweep is better, in sentences, tables and pictures of the page."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from analysis.cells import Cell, Key
from analysis.choice import one_evaluation
from analysis.intervals import Flags
from analysis.names import (
    datasets_in_order,
    models_in_order,
    paper_order,
)
from analysis.report.comparison import Comparison, Effect, Pair, comparisons, effect
from analysis.report.digest import Digests
from analysis.rounding import half_up
from analysis.tables import ABSENT, bracketed
from core.config import ConfigError, Strength
from core.errors import counted

FEW = 2
"""Backbone-dataset pairs that say too little of others: Student's interval over two is 13 standard
errors wide on each side. The interval is then over the images of these."""
MOST = 100
"""Pairs of cells whose images are read for such an interval."""
SAID = 12
"""Maximum number of comparisons put into words: a grid of many values has hundreds."""
LONG = {"clean": "clean", "adv": "adversarial", "expected": "expected"}


class Verdict:
    """The comparisons of a sweep as the page shows them."""

    def __init__(self, digests: Digests) -> None:
        self.digests = digests
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
        intervals = " (95 % intervals)" if any("[" in text for text in said) else ""
        return f"{name} changes, {'; '.join(said)}{intervals}."

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
        gaps = comparison.pairs[strength][metric].values()
        return self._measured(gaps, comparison.cells[strength, metric])

    def _measured(self, gaps: Iterable[float], cells: Sequence[tuple[Key, Key]]) -> Effect:
        """The effect of differences (one per backbone-dataset pair); for one or two, with the
        interval over their images."""
        made = effect(gaps)
        counts = Counter((key.model, key.dataset) for key, _ in cells)
        if made.n > FEW or len(cells) > MOST or len({*counts.values()}) > 1:
            return made
        try:
            low, high = self._flags.over_images(cells)
        except ConfigError:
            return made
        return made._replace(low=low, high=high)

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
                cells = [two for at in one.pairs for two in one.cells.get((at, metric), ())]
                means = map(float, map(np.mean, gaps.values()))
                entries.append(str(self._measured(means, cells)) if gaps else ABSENT)
            rows.append(([one.name], entries))
        note = (
            "mean over eps_g and all other axes of the grid; a backbone-dataset pair counts once, "
            "and with one or two the interval is over their images"
        )
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
    text = "mean over backbone-dataset pairs, all else in the grid equal, with "
    images = "an interval over the images of these pairs alone (paired bootstrap)"
    if max(counts) <= FEW:
        text += images
    else:
        text += "Student's interval over pairs" + f"; for one or two pairs, {images}" * (
            min(counts) <= FEW
        )
    left = f"; {one.incomplete} differences are left out, as one of the two cells is incomplete"
    return text + left * bool(one.incomplete)


def _best(found: Mapping[Key, Cell], metrics: Sequence[str]) -> dict[str, Any]:
    """A table for the page's script: for each eps_g with several settings the one with the highest
    mean accuracy in the last of `metrics` over the pairs on which all settings are complete, with
    its other accuracies there."""
    named = [LONG[metric] for metric in metrics]
    groups: dict[Strength, dict[tuple[str, str], dict[Pair, dict[str, float]]]] = {}
    constant = set[tuple[Any, ...]]()
    for key, cell in found.items():
        if key.setting == "standard" or not key.epsilon_g or not cell.complete:
            continue
        if cell.constant:
            constant.add((key.strength, key.setting, key.variant, key.model, key.dataset))
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
        count = len({*means} | {one[1:3] for one in constant if one[0] == strength})
        if count < 2:
            continue
        entries = [*(str(half_up(value, 1)) for value in best), str(len(shared)), str(count)]
        rows.append(([str(strength), name], entries))
    left_out = (
        f"; without {counted(len(constant), 'cell')} whose networks give every image the same label"
        if constant
        else ""
    )
    return {
        "title": f"Best setting by {named[-1]} accuracy (%)",
        "stub": ["eps_g", "Setting"],
        "levels": [[(name, 1) for name in (*named, "pairs", "of settings")]],
        "rows": rows,
        "notes": ["means over the pairs on which every setting is complete" + left_out],
    }
