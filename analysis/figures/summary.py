"""Figures that summarise whole tables: bars of means, and adversarial against clean accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.cells import Cell, Key, at, group_cells, strengths
from analysis.choice import one_evaluation
from analysis.figures.panels import complete, named
from analysis.figures.style import MARKERS, Looks, above, looks, matrix, styled
from analysis.names import METRICS, datasets_in_order, models_in_order
from analysis.paper import compared
from core.config import Strength

Drawn = Iterator[tuple[str, Figure]]
WIDE = (3.2, 2.2)
SQUARE = (2.1, 2.1)


def bars(values: pd.DataFrame) -> Drawn:
    """Mean clean, adversarial and expected accuracy over the pairs for which every setting shown is
    complete, with a dot per pair."""
    found = compared(group_cells(named(one_evaluation(values))))
    trained = sorted({key.strength for key in found if key.epsilon_g})
    settings = _comparable(found)
    if not trained or len(settings) < 2:
        return
    styles = looks(settings)
    with styled():
        figure, grid = matrix(1, len(trained), panel=WIDE)
        for strength, axes in zip(trained, grid[0], strict=True):
            _bars(axes, {k: c for k, c in found.items() if k.strength == strength}, styles)
            axes.set_ylim(0, 100)
        grid[0, 0].set_ylabel("accuracy (%)")
        handles = [Patch(color=style.color, label=name) for name, style in styles.items()]
        above(figure, handles)
    yield "bars", figure


def _comparable(found: dict[Key, Cell]) -> list[str]:
    """The settings that were asked for on every pair that has both fix and sched."""
    asked: dict[str, set[tuple[str, str, Strength]]] = {}
    for key in found:
        asked.setdefault(key.setting, set()).add((key.model, key.dataset, key.strength))
    core = asked.get("fix", set()) & asked.get("sched", set())
    return [name for name, pairs in asked.items() if core and pairs >= core]


def _bars(axes: Axes, found: dict[Key, Cell], styles: Looks) -> None:
    pairs = dict.fromkeys(map(_pair, found))
    whole = [pair for pair in pairs if _complete(pair, found, list(styles))]
    width = 0.8 / len(styles)
    value = {
        (k.model, k.dataset, k.variant, k.setting, k.metric): c.value for k, c in found.items()
    }
    for i, (setting, style) in enumerate(styles.items()):
        for j, metric in enumerate(METRICS):
            shown = np.array([value[(*pair, setting, metric)] for pair in whole], float)
            if not len(shown):
                continue
            x = j + (i - (len(styles) - 1) / 2) * width
            axes.bar(x, shown.mean(), 0.9 * width, color=style.color, alpha=0.75)
            spread = x + np.linspace(-0.3, 0.3, len(shown)) * width
            axes.plot(spread, shown, ".", color="black", markersize=2, alpha=0.6)
            axes.text(x, 101, f"{shown.mean():.1f}", ha="center", fontsize=6, color=style.color)
    strength = next(iter(found)).strength
    count = f"{len(whole)} of {len(pairs)}" if len(whole) < len(pairs) else f"{len(pairs)}"
    axes.set_title(rf"$\epsilon_g$ = {strength}, mean of {count} pairs", pad=12)
    axes.set_xticks(range(len(METRICS)), METRICS)
    axes.grid(axis="x", visible=False)


def _pair(key: Key) -> tuple[str, str, str]:
    return key.model, key.dataset, key.variant


def _complete(pair: tuple[str, str, str], found: dict[Key, Cell], settings: Sequence[str]) -> bool:
    mine = {(key.setting, key.metric): cell for key, cell in found.items() if _pair(key) == pair}
    wanted = [(setting, metric) for setting in settings for metric in METRICS]
    return all(key in mine and mine[key].complete for key in wanted)


def pareto(values: pd.DataFrame) -> Drawn:
    """Adversarial against clean accuracy of complete results: a panel per dataset and eps_g, a
    colour per setting, a marker per model. The line is the Pareto front."""
    points = complete(values)
    points = points[points["epsilon_g"] > 0]
    index = ["model", "dataset", "epsilon_g", "norm", "setting"]
    plane = points.pivot_table(index=index, columns="metric", values="value").reset_index()
    if not {"clean", "adv"} <= set(plane.columns):
        return
    datasets, trained = datasets_in_order(plane["dataset"]), strengths(plane)
    models, styles = models_in_order(plane["model"]), looks(plane["setting"])
    with styled():
        figure, grid = matrix(len(trained), len(datasets), panel=SQUARE)
        for i, strength in enumerate(trained):
            for j, dataset in enumerate(datasets):
                here = at(plane[plane["dataset"] == dataset], strength)
                _plane(grid[i, j], here.dropna(), models, styles)
                grid[i, j].set_title(rf"{dataset}, $\epsilon_g$ = {strength}")
        for axes in grid[-1]:
            axes.set_xlabel("clean accuracy (%)")
        for axes in grid[:, 0]:
            axes.set_ylabel("adversarial accuracy (%)")
        _legend(figure, models, styles)
    yield "pareto", figure


def _plane(axes: Axes, here: pd.DataFrame, models: Sequence[str], styles: Looks) -> None:
    front = undominated(here["clean"].to_numpy(float), here["adv"].to_numpy(float))
    line = here[front].sort_values("clean")
    axes.step(line["clean"], line["adv"], where="pre", color="#999999", linewidth=1, zorder=1)
    for row in here.to_dict("records"):
        marker = MARKERS[models.index(row["model"]) % len(MARKERS)]
        color = styles[row["setting"]].color
        axes.plot(row["clean"], row["adv"], marker, color=color, alpha=0.85)


def undominated(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether each point (x, y) is on the Pareto front: no other point is at least as good in both
    and better in one. bool, shape [n]."""
    better = (x[:, None] >= x) & (y[:, None] >= y) & ((x[:, None] > x) | (y[:, None] > y))
    return np.logical_not(better.any(axis=0))


def _legend(figure: Figure, models: Sequence[str], styles: Looks) -> None:
    lines = [
        Line2D([], [], color=style.color, marker="o", linestyle="", label=name)
        for name, style in styles.items()
    ]
    lines += [
        Line2D([], [], color="#444444", marker=MARKERS[i % len(MARKERS)], linestyle="", label=model)
        for i, model in enumerate(models)
    ]
    lines.append(Line2D([], [], color="#999999", label="Pareto front"))
    above(figure, lines)
