"""The figure of the demo: how each (backbone, dataset) pair adapts, and how robust it ends.

Above, validation accuracy per epoch with the epoch at which adaptation begins; below, accuracy
against the strength of the attack, its mean over [0, eps_g] shaded and in the legend.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures.style import key_line, look, mean_line, panels, styled
from analysis.names import datasets_in_order, models_in_order, settings_in_order, strength_name
from analysis.paper import one_evaluation
from analysis.results import Results
from core.config import ConfigError
from core.records import DELAY_THRESHOLD

COLUMNS = 4


def transfer(results: Results, epsilon_g: float | None = None) -> Figure:
    """The figure at one strength (255ths), by default the largest that was trained for.

    Runs without a result show what they have so far. Raises ConfigError where nothing was trained
    at `epsilon_g`.
    """
    trained = sorted(set(results.table["epsilon_g"]) - {0.0})
    if not trained or (epsilon_g is not None and epsilon_g not in trained):
        known = ", ".join(map(strength_name, trained)) or "none"
        raise ConfigError(f"no run was trained at this strength (there is: {known})")
    at = trained[-1] if epsilon_g is None else epsilon_g
    epochs, curves = (_at(frame, at) for frame in (results.epochs, results.curves))
    values = results.values
    expected = values[(values["metric"] == "expected") & (values["epsilon_g"] == at)]
    cells = _cells(results.table)
    with styled():
        figure, grid = panels(len(cells), COLUMNS, per_cell=2)
        for i, (model, dataset) in enumerate(cells):
            above, below = grid[2 * (i // COLUMNS) :, i % COLUMNS][:2]
            _adaptation(above, _of(epochs, model, dataset))
            above.set_title(f"{model}, {dataset}")
            cell_curves = one_evaluation(_of(curves, model, dataset)) if len(curves) else curves
            _robustness(below, cell_curves, _of(expected, model, dataset), at)
            if i % COLUMNS == 0:
                above.set_ylabel("validation accuracy (%)")
                below.set_ylabel(f"test accuracy (%)\n{_attack(curves)}")
        settings = settings_in_order(results.table["setting"])
        lines = [key_line(name, look(name, settings)) for name in settings]
        lines.append(
            Line2D([], [], color="black", marker="o", linestyle="", label="adaptation begins")
        )
        title = f"$\\epsilon_g$ = {strength_name(at)}"
        figure.legend(handles=lines, title=title, loc="outside upper center", ncols=len(lines))
    return figure


def _at(frame: pd.DataFrame, epsilon_g: float) -> pd.DataFrame:
    """Runs trained at eps_g, and standard ones, which belong to every strength."""
    return frame[frame["epsilon_g"].isin([epsilon_g, 0.0])]


def _of(frame: pd.DataFrame, model: str, dataset: str) -> pd.DataFrame:
    return frame[(frame["model"] == model) & (frame["dataset"] == dataset)]


def _cells(table: pd.DataFrame) -> list[tuple[str, str]]:
    there = set(zip(table["model"], table["dataset"], strict=True))
    pairs = [
        (model, dataset)
        for model in models_in_order(table["model"])
        for dataset in datasets_in_order(table["dataset"])
    ]
    return [pair for pair in pairs if pair in there]


def _attack(curves: pd.DataFrame) -> str:
    """'APGD-10, n = 512': the attack and the count of images behind the curves."""
    counts = sorted(set(curves["n"]))
    images = " to ".join(str(n) for n in dict.fromkeys([counts[0], counts[-1]])) if counts else "0"
    return f"{' and '.join(dict.fromkeys(curves['attack']))}, n = {images}"


def _adaptation(axes: Axes, epochs: pd.DataFrame) -> None:
    axes.axhline(100 * DELAY_THRESHOLD, color="#999999", linewidth=0.7, linestyle=(0, (1, 2)))
    settings = settings_in_order(epochs["setting"])
    for setting in settings:
        style = look(setting, settings)
        mean = mean_line(axes, epochs[epochs["setting"] == setting], "epoch", "val_clean", style)
        adapted = mean[mean > 100 * DELAY_THRESHOLD]
        if len(adapted):
            axes.plot(
                adapted.index[0], adapted.iloc[0], style.marker, color=style.color, clip_on=False
            )
    axes.set_ylim(0, 100)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")


def _robustness(axes: Axes, curves: pd.DataFrame, expected: pd.DataFrame, epsilon_g: float) -> None:
    settings = settings_in_order(curves["setting"])
    lines = []
    for setting in settings:
        style = look(setting, settings)
        mine = curves[curves["setting"] == setting]
        mean = mean_line(axes, mine, "epsilon", "accuracy", style)
        inside = mean[mean.index <= epsilon_g]
        axes.fill_between(inside.index, inside.to_numpy(), color=style.color, alpha=0.12, lw=0)
        value = expected.loc[expected["setting"] == setting, "value"].mean()
        lines.append(key_line(f"{setting}: {value:.1f}", style))
    axes.axvline(epsilon_g, color="#999999", linewidth=0.7)
    axes.set_ylim(0, 100)
    axes.set_xlim(left=0)
    axes.set_xlabel("attack strength (1/255)")
    axes.legend(
        handles=lines,
        title="expected (%)",
        title_fontsize=7,
        handlelength=1.6,
        loc="upper right",
    )
