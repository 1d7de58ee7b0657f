"""Figures of trainings: one figure per eps_g, with a panel for each (model, dataset).

`adaptation`: validation accuracy and where adaptation begins. `robustness`: accuracy against the
attack's strength. `draw_training`: strength of the training attack, clean and adversarial accuracy
and loss per epoch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.cells import at, strengths
from analysis.figures import panels
from analysis.figures.panels import (
    at_strength,
    judged,
    named,
    of_pair,
    pairs_of,
    what_is_judged,
)
from analysis.figures.style import (
    Looks,
    blocks,
    legend,
    looks,
    make_room,
    matrix,
    pair_title,
    styled,
)
from analysis.names import datasets_in_order, models_in_order
from analysis.results import Results
from core.config import Strength
from core.config.strength import NO_ATTACK, in_pixels

Drawn = Iterator[tuple[str, Figure]]
COLUMNS = {
    "alpha": "training attack / eps_g",
    "val_clean": "clean (%)",
    "val_adv": "adversarial (%)",
    "val_loss": "loss",
}
"""Rows of the `training` figure: column of the metrics -> label. alpha is what the schedule asks
for; the others are measured by the validation after each epoch."""


def trained(results: Results) -> list[Strength]:
    """The eps_g for which a run has an epoch or a curve. If so far only standard runs have one: all
    eps_g asked for, as those runs belong to every strength; [0] if there are no attacked runs."""
    begun = {*strengths(results.epochs), *strengths(results.curves)}
    asked = {*strengths(results.table)} if begun else set()
    return sorted(filter(None, begun)) or sorted(filter(None, asked)) or [NO_ATTACK]


def stem(name: str, strength: Strength) -> str:
    """A file's stem: 'adaptation-eps4', 'adaptation-l2_eps0_2'."""
    number = strength.number * 255 if in_pixels(strength.norm) else strength.number
    prefix = "" if in_pixels(strength.norm) else f"{strength.norm}_"
    return f"{name}-{prefix}eps{float(number):g}".replace(".", "_")


def adaptation(results: Results) -> Drawn:
    """Clean validation accuracy per epoch."""
    for strength in trained(results):
        epochs = named(at_strength(results.epochs, strength, results.table))
        if epochs.empty:
            continue
        styles = looks(epochs["setting"])
        with styled():
            figure, grid = _by_pair(epochs, "epoch", "validation accuracy (%)")
            for pair, axes in grid.items():
                panels.adaptation(axes, of_pair(epochs, pair), styles)
            legend(figure, styles, strength, onset=True)
        yield stem("adaptation", strength), figure


def robustness(results: Results) -> Drawn:
    """Accuracy against the strength of the attack, expected robustness in the legends."""
    every, expected = judged(results)
    for strength in trained(results):
        curves = at_strength(every, strength, results.table)
        mean = at(expected, strength)
        if curves.empty:
            continue
        styles = looks(curves["setting"])
        label = what_is_judged(curves)
        with styled():
            figure, grid = _by_pair(curves, panels.attack_axis(curves), label)
            make_room(figure, len({axes.get_position().y0 for axes in grid.values()}), len(styles))
            for pair, axes in grid.items():
                mine = of_pair(mean, pair)
                panels.robustness(axes, of_pair(curves, pair), mine, strength, styles)
            legend(figure, styles, strength)
        yield stem("robustness", strength), figure


def draw_training(results: Results) -> Drawn:
    """The schedule, and clean accuracy, adversarial accuracy and loss on the validation split."""
    for strength in trained(results):
        epochs = named(at_strength(results.epochs, strength, results.table))
        if epochs.empty:
            continue
        epochs = epochs.assign(alpha=epochs["epsilon"] / float(strength.number or 1))
        pairs, styles = pairs_of(epochs), looks(epochs["setting"])
        with styled():
            figure, grid = blocks(len(pairs), 4, rows=len(COLUMNS))
            for i, pair in enumerate(pairs):
                column = grid[len(COLUMNS) * (i // 4) :, i % 4]
                _history(column, of_pair(epochs, pair), styles, first=i % 4 == 0)
                column[0].set_title(pair_title(pair))
            legend(figure, styles, strength)
        yield stem("training", strength), figure


def _history(column: np.ndarray, epochs: pd.DataFrame, styles: Looks, *, first: bool) -> None:
    for axes, (name, label) in zip(column, COLUMNS.items(), strict=False):
        panels.per_epoch(axes, epochs, name, styles)
        if name.startswith("val") and name != "val_loss":
            axes.set_ylim(0, 100)
        if first:
            attacked = " and ".join(dict.fromkeys(epochs["val_epsilon"]))
            axes.set_ylabel(f"{label}\nat {attacked}" if name == "val_adv" else label)
    axes.set_xlabel("epoch")


def _by_pair(frame: pd.DataFrame, x: str, y: str) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """A figure and its panel for each pair: models as rows and datasets as columns, or a single row
    for at most four pairs. x, y: labels of the axes."""
    pairs = pairs_of(frame)
    models, datasets = models_in_order(frame["model"]), datasets_in_order(frame["dataset"])
    if len(pairs) <= 4:
        figure, grid = matrix(1, len(pairs))
        places = dict(zip(pairs, grid[0], strict=True))
    else:
        figure, grid = matrix(len(models), len(datasets))
        places = {(m, d): grid[i, j] for i, m in enumerate(models) for j, d in enumerate(datasets)}
    for pair, axes in places.items():
        if pair not in pairs:
            axes.set_axis_off()
            continue
        axes.set_title(pair_title(pair))
    for axes in grid[-1]:
        axes.set_xlabel(x)
    for axes in grid[:, 0]:
        axes.set_ylabel(y)
    return figure, {pair: places[pair] for pair in pairs}
