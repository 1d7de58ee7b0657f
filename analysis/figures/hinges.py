"""Figures of the study over T1 and T2: accuracy per epoch, and final accuracy."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.cells import Cell, at, strengths
from analysis.figures.style import DASHES, Look, matrix, mean_line, styled
from analysis.names import METRICS
from analysis.paper import table_cells, table_frame
from analysis.results import Results

Drawn = Iterator[tuple[str, Figure]]
PANEL = (2.3, 1.9)


def heat_maps(values: pd.DataFrame) -> Drawn:
    """Clean, adversarial and expected accuracy for each (T1, T2), blank if incomplete: a row per
    eps_g and variant, a figure per (model, dataset)."""
    found, pairs = table_cells(7, values), read_hinges(table_frame(7, values))
    for model, dataset in dict.fromkeys((key.model, key.dataset) for key in found):
        mine = {k: c for k, c in found.items() if (k.model, k.dataset) == (model, dataset)}
        rows = sorted({(key.variant, key.strength) for key in mine})
        with styled():
            figure, grid = matrix(len(rows), len(METRICS), panel=PANEL)
            for i, (variant, strength) in enumerate(rows):
                for j, metric in enumerate(METRICS):
                    here = {
                        pairs[key.setting]: cell
                        for key, cell in mine.items()
                        if (key.variant, key.strength, key.metric) == (variant, strength, metric)
                    }
                    _heat_map(grid[i, j], here)
                    grid[i, j].set_title(rf"{metric} (%), $\epsilon_g$ = {strength}")
                if variant:
                    grid[i, 0].set_ylabel(f"{variant}\nT1")
            figure.suptitle(f"{model}, {dataset}", fontsize=8)
        yield f"hinges-{model}-{dataset}", figure


def read_hinges(frame: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """Setting -> (T1, T2) in epochs. frame: rows of Table 7."""
    columns = (frame[name] for name in ("setting", "T1", "T2"))
    return {setting: (int(T1), int(T2)) for setting, T1, T2 in zip(*columns, strict=True)}


def _heat_map(axes: Axes, here: dict[tuple[int, int], Cell]) -> None:
    T1s, T2s = (sorted({pair[i] for pair in here}) for i in (0, 1))
    values = np.full((len(T1s), len(T2s)), np.nan)
    for (T1, T2), cell in here.items():
        if cell.complete and cell.value is not None:
            values[T1s.index(T1), T2s.index(T2)] = cell.value
    colors = matplotlib.colormaps["cividis"].with_extremes(bad="#eeeeee")
    axes.imshow(values, cmap=colors, vmin=0, vmax=100, aspect="auto")
    for i, j in np.argwhere(~np.isnan(values)):
        ink = "white" if values[i, j] < 55 else "black"
        axes.text(j, i, f"{values[i, j]:.1f}", ha="center", va="center", fontsize=6, color=ink)
    axes.set_xticks(range(len(T2s)), [str(T2) for T2 in T2s])
    axes.set_yticks(range(len(T1s)), [str(T1) for T1 in T1s])
    axes.set(xlabel="T2", ylabel="T1")
    axes.grid(visible=False)


def dynamics(results: Results) -> Drawn:
    """Validation clean accuracy per epoch: a column per T1, a row per eps_g and variant, a shade
    per T2."""
    epochs = results.epochs
    epochs = epochs[epochs["T1"].notna()]
    for (model, dataset), mine in epochs.groupby(["model", "dataset"], sort=False):
        if len(mine[["T1", "T2"]].drop_duplicates()) > 2:
            yield f"dynamics-{model}-{dataset}", _dynamics(mine, f"{model}, {dataset}")


def _dynamics(epochs: pd.DataFrame, title: str) -> Figure:
    T1s = sorted(set(epochs["T1"]))
    rows = [
        (variant, strength)
        for variant in sorted(set(epochs["variant"]))
        for strength in strengths(epochs[epochs["variant"] == variant])
    ]
    with styled():
        figure, grid = matrix(len(rows), len(T1s), panel=PANEL)
        for i, (variant, strength) in enumerate(rows):
            mine = at(epochs[epochs["variant"] == variant], strength)
            grid[i, 0].set_ylabel(f"{variant}\nvalidation accuracy (%)".lstrip())
            for j, T1 in enumerate(T1s):
                axes, here = grid[i, j], mine[mine["T1"] == T1]
                if here.empty:
                    axes.set_axis_off()
                    continue
                _shades(axes, here)
                axes.set_title(rf"T1 = {T1}, $\epsilon_g$ = {strength}")
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
        figure.suptitle(title, fontsize=8)
    return figure


def _shades(axes: Axes, here: pd.DataFrame) -> None:
    T2s = sorted(set(here["T2"]))
    shades = matplotlib.colormaps["cividis"](np.linspace(0, 0.85, max(len(T2s), 2)))
    for i, (T2, shade) in enumerate(zip(T2s, shades, strict=False)):
        style = Look(matplotlib.colors.to_hex(shade), DASHES[i % len(DASHES)])
        mean_line(axes, here[here["T2"] == T2], "epoch", "val_clean", style)
        axes.lines[-1].set_label(f"T2 = {T2}")
    axes.set_ylim(0, 100)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.legend(loc="best")
