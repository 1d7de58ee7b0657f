"""Figures over eps_g: clean accuracy, adaptation delay, and final accuracy against the delay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from analysis.choice import one_evaluation
from analysis.figures.panels import complete, named, unit, unit_name
from analysis.figures.style import MARKERS, Line, above, looks, matrix, styled
from analysis.names import datasets_in_order, models_in_order
from analysis.results import Results
from analysis.statistics import median_delay

Drawn = Iterator[tuple[str, Figure]]
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
TALL = (2.4, 2.1)
NEVER: Any = {"colors": "#999999", "linewidths": 0.7, "linestyles": "--", "zorder": 0}
"""Style of the line at the end of the training, where runs that never adapt are drawn."""


class Code(NamedTuple):
    """How datasets (colour, marker) and settings (line style) are told apart in all panels."""

    datasets: dict[str, tuple[str, str]]
    settings: dict[str, Line]

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Code:
        names = enumerate(datasets_in_order(frame["dataset"]))
        return cls(
            {name: (PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]) for i, name in names},
            {name: look.line for name, look in looks(frame["setting"]).items()},
        )


def draw_strength(values: pd.DataFrame) -> Drawn:
    """Clean accuracy of complete cells against eps_g: a panel per model, a colour per dataset."""
    asked = values[(values["metric"] == "clean") & values["setting"].isin(["fix", "sched"])]
    if asked["epsilon_g"].nunique() < 2:
        return
    clean, axis = complete(asked), _axis(asked)
    if clean["epsilon_g"].nunique() < 2:
        return
    models, code = models_in_order(clean["model"]), Code.of(clean)
    with styled():
        figure, grid = matrix(-(-len(models) // 3), min(3, len(models)), panel=TALL)
        for axes in grid.flat[len(models) :]:
            axes.set_axis_off()
        for model, axes in zip(models, grid.flat, strict=False):
            _against_strength(axes, clean[clean["model"] == model], code)
            axes.set(title=model, ylim=(0, 100), xlabel=axis)
        for axes in grid[:, 0]:
            axes.set_ylabel("clean accuracy (%)")
        _legend(figure, code)
    yield "strength", figure


def delay(results: Results) -> Drawn:
    """Left, adaptation delay against eps_g; right, final clean accuracy against the delay, with
    Spearman's rank correlation per dataset. A row per model, only runs with schedule fix.

    Runs that never adapt are hollow marks at the dashed line: their delay is longer than the
    training by an unknown time. So averages are Kaplan-Meier medians, and in the rank correlation
    they share the last rank.
    """
    runs = _final(results)
    runs = named(runs[(runs["setting"] == "fix") & runs["delay"].notna()])
    if runs.empty:
        return
    models, code = models_in_order(runs["model"]), Code.of(runs)
    with styled():
        figure, grid = matrix(len(models), 2, panel=TALL)
        for model, (left, right) in zip(models, grid, strict=True):
            mine = runs[runs["model"] == model]
            _delays(left, mine, code)
            left.set(title=model, xlabel=_axis(runs), ylabel="delay (epochs)")
            left.hlines(mine["epochs"].max(), 0, 1, transform=left.get_yaxis_transform(), **NEVER)
            right.vlines(mine["epochs"].max(), 0, 1, transform=right.get_xaxis_transform(), **NEVER)
            left.set_ylim(0, 1.05 * mine["epochs"].max())
            _cost(right, mine, code)
            right.set(title=model, xlabel="delay (epochs)", ylabel="final clean accuracy (%)")
            right.set(xlim=(0, 1.05 * mine["epochs"].max()), ylim=(0, 100))
        _legend(figure, code)
    yield "delay", figure


def _axis(frame: pd.DataFrame) -> str:
    return rf"$\epsilon_g$ ({unit_name(frame, 'norm')})"


def _final(results: Results) -> pd.DataFrame:
    """The run table with the clean accuracy of each finished run, in percent, as `clean`."""
    values = one_evaluation(results.values)
    clean = values[values["metric"] == "clean"].drop_duplicates("run_id")
    table = results.table
    return table.assign(clean=table["run_id"].map(clean.set_index("run_id")["value"]))


def _against_strength(axes: Axes, frame: pd.DataFrame, code: Code) -> None:
    for (setting, dataset), mine in frame.groupby(["setting", "dataset"], sort=False):
        mean = mine.groupby(mine["epsilon_g"] / unit(mine, "norm"))["value"].mean().astype(float)
        color, marker = code.datasets[str(dataset)]
        line = code.settings[str(setting)]
        axes.plot(mean.index, mean.to_numpy(), color=color, marker=marker, linestyle=line)


def _delays(axes: Axes, runs: pd.DataFrame, code: Code) -> None:
    """Median delay against eps_g; a hollow mark at the end of the training if it is longer."""
    for (setting, dataset), mine in runs.groupby(["setting", "dataset"], sort=False):
        strengths = mine.groupby(mine["epsilon_g"] / unit(mine, "norm"))
        middle = strengths.apply(lambda one: median_delay(one["delay"], one["epochs"]))
        never = np.isinf(middle.to_numpy(float))
        shown = np.where(never, strengths["epochs"].max(), middle)
        color, marker = code.datasets[str(dataset)]
        line = code.settings[str(setting)]
        axes.plot(middle.index, shown, color=color, marker=marker, linestyle=line)
        _hollow(axes, middle.index[never], shown[never], color, marker)


def _cost(axes: Axes, runs: pd.DataFrame, code: Code) -> None:
    lines = []
    for dataset in datasets_in_order(runs["dataset"]):
        mine = runs[(runs["dataset"] == dataset) & runs["clean"].notna()]
        color, marker = code.datasets[dataset]
        adapted = mine["delay"] < mine["epochs"]
        axes.plot(mine["delay"], mine["clean"], marker, color=color)
        hollow = mine[~adapted]
        _hollow(axes, hollow["delay"], hollow["clean"], color, marker)
        delays = mine["delay"].astype(float).where(adapted, np.inf).to_numpy()
        rho = correlation(delays, mine["clean"].to_numpy(float))
        shown = "no rank correlation" if np.isnan(rho) else rf"$\rho$ = {rho:.2f}"
        label = f"{shown} (n = {len(mine)}{f', {len(hollow)} never' if len(hollow) else ''})"
        lines.append(Line2D([], [], color=color, marker=marker, linestyle="", label=label))
    axes.legend(handles=lines, loc="best")


def _hollow(axes: Axes, x: ArrayLike, y: ArrayLike, color: str, marker: str) -> None:
    size = matplotlib.rcParams["lines.markersize"] ** 2
    axes.scatter(x, y, size, "white", marker=marker, edgecolors=color, zorder=3)


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation of x and y, shape [n]; infinite values share the last rank. nan
    for fewer than three points or without spread."""
    if len(x) < 3 or len({*x}) == 1 or len({*y}) == 1:
        return float("nan")
    return float(np.corrcoef([pd.Series(one).rank() for one in (x, y)])[0, 1])


def _legend(figure: Figure, code: Code) -> None:
    lines = [
        Line2D([], [], color=color, marker=marker, label=name)
        for name, (color, marker) in code.datasets.items()
    ]
    for setting, line in code.settings.items() if len(code.settings) > 1 else ():
        lines.append(Line2D([], [], color="black", linestyle=line, label=setting))
    above(figure, lines)
