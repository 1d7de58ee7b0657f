"""Data frames -> the paper's figures, in one style, as vector PDF and PNG.

`write_figures` draws all figures for which there are results, and leaves out the others.

A figure is a file with a function that draws it, and its line in `FROM_VALUES` or `FROM_RUNS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from analysis.command import Source
from analysis.figures import hinges, margins, strength, summary, training
from analysis.figures.style import save
from analysis.figures.transfer import draw_transfer
from analysis.results import Results
from core.config import ConfigError, nearest

Drawn = Iterator[tuple[str, Figure]]


def _transfer(results: Results) -> Drawn:
    for trained in training.trained(results):
        if trained:
            yield training.stem("transfer", trained), draw_transfer(results, trained)


FROM_VALUES = {
    "strength": strength.draw_strength,
    "bars": summary.bars,
    "pareto": summary.pareto,
    "hinges": hinges.heat_maps,
}
"""Figures that need only accuracies, so that CSV files are enough."""
FROM_RUNS: dict[str, Callable[[Results], Drawn]] = {
    "transfer": _transfer,
    "adaptation": training.adaptation,
    "robustness": training.robustness,
    "training": training.draw_training,
    "delay": strength.delay,
    "dynamics": hinges.dynamics,
    "margins": margins.hexbins,
    "roc": margins.curves,
    "estimates": margins.estimated,
}
NAMES = (*FROM_RUNS, *FROM_VALUES)
PER_PAIR = ("transfer", "adaptation", "robustness", "training", "margins", "roc")
"""Figures with a panel for each (model, dataset)."""
CAPTIONS = {
    "transfer": "Above, validation accuracy per epoch and where adaptation begins; below, accuracy "
    "against the strength of the attack, its mean (expected robustness) shaded",
    "training": "Validation accuracy, clean and under attack, and loss per epoch",
    "bars": "Mean accuracy over the pairs for which every setting is complete, a dot per pair",
    "pareto": "Adversarial against clean accuracy; the line joins results that no other beats in "
    "both",
    "strength": "Clean accuracy against the strength trained for",
    "delay": "Median adaptation delay against strength, and final accuracy against the delay with "
    "its rank correlation; hollow marks at the dashed line: runs that never adapt, ranked last",
    "dynamics": "Validation accuracy per epoch for each pair of hinges T1, T2",
    "margins": "Logit margin against the distance to the decision boundary (5th to 95th "
    "percentile), and Kendall's tau",
    "roc": "Brittle images, which an attack of that strength can change, detected by a small logit "
    "margin; skipped if fewer than ten are brittle, or robust, at every strength",
    "estimates": "Robust accuracy estimated from the distances of few images and the logit margins "
    "of all, a dot per run, strength and draw",
    "hinges": "Final accuracy for each pair of hinges T1, T2",
}
"""Figure of the report -> its caption."""


def draw(source: Source, names: Sequence[str] = ()) -> Drawn:
    """Yields (file stem, figure) for the figures `names`, by default all of them.

    Raises ConfigError for an unknown name, or one of `names` for which there are no results.
    """
    for name in names:
        if name not in NAMES:
            raise ConfigError(f"--figure: unknown figure '{name}'{nearest(name, NAMES)}")
    for name in names or NAMES:
        empty = True
        for found in drawings(name, source):
            empty = False
            yield found
        if names and empty:
            raise ConfigError(f"--figure {name}: no results for this figure here")


def drawings(name: str, source: Source) -> Drawn:
    """Yields (file stem, figure) for one kind of figure; nothing if there are no results for it.

    Strengths of several norms cannot share an axis: if there are several, only l-inf is drawn.
    """
    source = _of_one_norm(source)
    if name in FROM_VALUES:
        return FROM_VALUES[name](source.values)
    return FROM_RUNS[name](source.results) if source.results else iter(())


def _of_one_norm(source: Source) -> Source:
    results = source.results
    if results is None or len({run.epsilon_g.norm for run in results.runs if run.epsilon_g}) < 2:
        return source
    part = results.only([run for run in results.runs if run.epsilon_g.norm == "linf"])
    return Source(part.values, part)


def write_figures(source: Source, folder: str | Path, names: Sequence[str] = ()) -> list[Path]:
    """Write the figures as PDF and PNG into `folder`; returns the files. Raises ConfigError as
    `draw` does, and if there is nothing to draw at all."""
    files = [
        path for stem, figure in draw(source, names) for path in save(figure, Path(folder) / stem)
    ]
    if not files:
        raise ConfigError("no figures: there are no results to draw")
    return files
