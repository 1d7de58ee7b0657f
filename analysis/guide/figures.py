"""Figures of the Guide's analyses, from the same frames as its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import above, matrix, save, styled
from analysis.guide import correlations, effects
from analysis.guide.design import FACTORS, LOSSES, METRICS, SIZES
from analysis.guide.measurements import records
from analysis.guide.ranking import best, means, rank
from analysis.rounding import half_up
from core.config import ConfigError, nearest

Drawn = Iterator[tuple[str, Figure]]
COLORS = dict(zip(LOSSES, ("#D55E00", "#0072B2"), strict=True))
OTHER = "#666666"
SHAPES = dict(zip(SIZES, "o^s", strict=True))
SQUARE = (2.4, 2.3)
WIDE = (3.4, 2.2)
LONGEST = 30
"""Maximum number of characters of a name in a title."""


def heat_map(frame: pd.DataFrame) -> Drawn:
    """Spearman's correlation of the five accuracies, a panel per protocol."""
    table = correlations.heat_map(frame)
    protocols = [*dict.fromkeys(table["protocol"])]
    if not protocols:
        return
    with styled():
        figure, grid = matrix(1, len(protocols), panel=SQUARE)
        for axes, protocol in zip(grid[0], protocols, strict=False):
            values = table.loc[table["protocol"] == protocol, list(METRICS)].to_numpy(float)
            axes.imshow(values, vmin=-1, vmax=1, cmap="RdBu_r")
            for i, j in product(range(len(METRICS)), repeat=2):
                color = "white" if abs(values[i, j]) > 0.6 else "black"
                shown = "" if np.isnan(values[i, j]) else str(half_up(values[i, j]))
                axes.text(j, i, shown, ha="center", va="center", fontsize=6, color=color)
            axes.set_xticks(range(len(METRICS)), METRICS, rotation=45)
            axes.set_yticks(range(len(METRICS)), METRICS)
            axes.set_title(protocol)
            axes.grid(visible=False)
        _blank(grid[0][len(protocols) :])
    yield "guide_heatmap", figure


def plane(frame: pd.DataFrame) -> Drawn:
    """The mean of the other four accuracies against mean clean accuracy, a dot per backbone and
    loss."""
    table = means(frame)
    protocols = [*dict.fromkeys(table["protocol"])]
    if not protocols:
        return
    with styled():
        figure, grid = matrix(1, len(protocols), panel=SQUARE)
        for axes, protocol in zip(grid[0], protocols, strict=False):
            for row in records(table[table["protocol"] == protocol]):
                look = {"color": COLORS.get(row["loss"], OTHER), "alpha": 0.7, "linestyle": ""}
                shape = SHAPES.get(row["size"], "x")
                axes.plot(100 * row["clean"], 100 * row["robust"], marker=shape, **look)
            axes.plot([0, 100], [0, 100], color="#bbbbbb", linewidth=0.8, zorder=0)
            axes.set_title(protocol)
            axes.set_xlabel("clean accuracy (%)")
            axes.set_xlim(0, 100)
            axes.set_ylim(0, 100)
        grid[0, 0].set_ylabel("mean of the other four (%)")
        _blank(grid[0][len(protocols) :])
        _legend(figure, table["loss"], sizes=True)
    yield "guide_plane", figure


def radar(frame: pd.DataFrame) -> Drawn:
    """The five accuracies of the best configuration on each dataset, a row of panels per
    protocol."""
    table = best(frame)
    protocols, datasets = ([*dict.fromkeys(table[name])] for name in ("protocol", "dataset"))
    if table.empty:
        return
    angles = np.linspace(0, 2 * np.pi, len(METRICS), endpoint=False)
    with styled():
        size = (2.0 * len(datasets) + 0.4, 2.3 * len(protocols) + 0.5)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(
            len(protocols), len(datasets), squeeze=False, subplot_kw={"projection": "polar"}
        )
        for row in records(table):
            axes = grid[protocols.index(row["protocol"]), datasets.index(row["dataset"])]
            values = [100 * row[metric] for metric in METRICS]
            color = COLORS.get(row["loss"], OTHER)
            axes.plot([*angles, angles[0]], [*values, values[0]], color=color)
            axes.fill(angles, values, color=color, alpha=0.15)
            axes.set_title(f"{row['dataset']}\n{_short(row['backbone'])}", fontsize=6)
        for axes in grid.flat:
            axes.set_xticks(angles, METRICS, fontsize=6)
            axes.set_yticks([25, 50, 75, 100], ["", "50", "", "100 %"], fontsize=5)
            axes.set_ylim(0, 100)
        for axes, protocol in zip(grid[:, 0], protocols, strict=True):
            axes.set_ylabel(protocol, labelpad=24)
        _legend(figure, table["loss"])
    yield "guide_radar", figure


def proxies(frame: pd.DataFrame) -> Drawn:
    """Score sums in the longest protocol against those in cheaper ones, with their correlation."""
    found, longest = correlations.proxies(frame), correlations.longest(frame)
    names = [*dict.fromkeys(found["proxy"])]
    if longest is None or not names:
        return
    index = ["backbone", "loss"]
    scores = rank(frame).pivot(index=index, columns="protocol", values="score_sum").reset_index()
    with styled():
        figure, grid = matrix(1, len(names), panel=SQUARE)
        for axes, name in zip(grid[0], names, strict=False):
            for row in records(scores[[*index, name, longest]].dropna()):
                color = COLORS.get(row["loss"], OTHER)
                axes.plot(row[name], row[longest], "o", color=color, alpha=0.7)
            said = [
                f"{row['loss']}: {row['rho']:.2f}" for row in records(found[found["proxy"] == name])
            ]
            axes.set_title(", ".join(said), fontsize=7)
            axes.set_xlabel(f"score sum, {name}")
        grid[0, 0].set_ylabel(f"score sum, {longest}")
        _blank(grid[0][len(names) :])
        _legend(figure, scores["loss"])
    yield "guide_proxies", figure


def levels(frame: pd.DataFrame) -> Drawn:
    """Borda counts by each factor in the longest protocol, with Tukey's letters."""
    longest = correlations.longest(frame)
    table = rank(frame)
    table = table[(table["protocol"] == longest) & table["rank"].notna()]
    marked = effects.mark_levels(frame[frame["protocol"] == longest])
    factors = [name for name in FACTORS if (marked["factor"] == name).any()]
    if not factors:
        return
    with styled():
        figure, grid = matrix(1, len(factors), panel=WIDE)
        for axes, factor in zip(grid[0], factors, strict=False):
            _boxes(axes, table, factor, records(marked[marked["factor"] == factor]))
        grid[0, 0].set_ylabel(f"Borda count, {longest}")
        _blank(grid[0][len(factors) :])
    yield "guide_levels", figure


def _boxes(
    axes: Axes, table: pd.DataFrame, factor: str, marked: Sequence[Mapping[str, object]]
) -> None:
    for place, row in enumerate(marked):
        values = table.loc[table[factor] == row["level"], "borda"].to_numpy(float)
        axes.boxplot(values, positions=[place], widths=0.6, showfliers=False)
        spread = place + np.linspace(-0.2, 0.2, len(values))
        axes.plot(spread, values, ".", color="#0072B2", alpha=0.5, markersize=3)
        axes.text(place, values.max(), f" {row['letters']}", ha="center", va="bottom", fontsize=7)
    names = [str(row["level"]).replace(" (", "\n(") for row in marked]
    axes.set_xticks(range(len(marked)), names, rotation=30, ha="right", fontsize=6)
    axes.set_title(factor)
    axes.margins(y=0.1)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def _blank(rest: np.ndarray) -> None:
    for axes in rest:
        axes.set_axis_off()


def _legend(figure: Figure, losses: pd.Series, *, sizes: bool = False) -> None:
    lines = [
        Line2D([], [], color=COLORS.get(loss, OTHER), marker="o", linestyle="", label=loss)
        for loss in dict.fromkeys(losses)
    ]
    if sizes:
        lines += [
            Line2D([], [], color="#444444", marker=shape, linestyle="", label=size)
            for size, shape in SHAPES.items()
        ]
    above(figure, lines)


FIGURES: Mapping[str, Callable[[pd.DataFrame], Drawn]] = {
    "heatmap": heat_map,
    "plane": plane,
    "radar": radar,
    "proxies": proxies,
    "levels": levels,
}
CAPTIONS = {
    "heatmap": "Spearman's correlation of the five accuracies over all rows of a protocol",
    "plane": "The mean of the other four accuracies against mean clean accuracy, for each backbone "
    "and loss",
    "radar": "The five accuracies of the best configuration on each dataset, by Borda points there",
    "proxies": "Score sums of the longest protocol against cheaper ones, with Spearman's rho",
    "levels": "Borda counts by factor; levels that share a letter do not differ (Tukey, alpha 0.1)",
}


def write_figures(frame: pd.DataFrame, folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """Write the figures as PDF and PNG into `folder`; returns the files. Raises ConfigError for an
    unknown name, or if there is nothing to draw."""
    for name in names:
        if name not in FIGURES:
            raise ConfigError(f"--figure: unknown figure '{name}'{nearest(name, FIGURES)}")
    files = [
        path
        for name in names or FIGURES
        for stem, figure in FIGURES[name](frame)
        for path in save(figure, folder / stem)
    ]
    if not files:
        raise ConfigError("no figures: there are no results to draw")
    return files
