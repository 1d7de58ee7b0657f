"""Data frames -> the figures of the paper, in one style, as vector PDF and PNG.

`write_figures` draws whatever the results can fill: a figure without data is left out, not empty.
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
"""Figures that need accuracies only, so that CSV files will do."""
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
    "bars": "Mean accuracy over the pairs where every setting is complete, a dot per pair",
    "pareto": "Adversarial against clean accuracy; the line joins what no other result beats",
    "strength": "Clean accuracy against the strength trained for",
    "delay": "Median adaptation delay against strength, and final accuracy against the delay with "
    "its rank correlation; hollow marks at the dashed line: runs that never adapt, ranked last",
    "dynamics": "Validation accuracy per epoch for each pair of hinges T1, T2",
    "margins": "Distance to the nearest other decision against the logit margin, its 5th to 95th "
    "percentile, and Kendall's tau",
    "roc": "Brittle images, which an attack of that strength can change, told by a small logit "
    "margin",
    "estimates": "Robust accuracy from the distances of few images and the logit margins of all, a "
    "dot per run, strength and draw",
    "hinges": "Final accuracy for each pair of hinges T1, T2",
}
"""Figures of the report and what they show."""


def draw(source: Source, names: Sequence[str] = ()) -> Drawn:
    """(file stem, figure) of the figures `names`, of all by default, one after the other.

    Raises ConfigError for an unknown name, or one of `names` that these results cannot fill.
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
            raise ConfigError(f"--figure {name}: these results hold nothing to draw")


def drawings(name: str, source: Source) -> Drawn:
    """(file stem, figure) of one kind of figure, nothing where these results cannot fill it.

    Strengths of several norms share no axis: where there are such, of runs against l-inf only.
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
    """Write the figures as PDF and PNG into `folder`; the files written. Raises ConfigError as
    `draw` does, and where there is nothing to draw at all."""
    files = [
        path for stem, figure in draw(source, names) for path in save(figure, Path(folder) / stem)
    ]
    if not files:
        raise ConfigError("no figures: these results hold nothing to draw")
    return files
