"""The figure of the demo: how each (backbone, dataset) pair adapts, and how robust it ends.

Above, validation accuracy per epoch with the epoch at which adaptation begins; below, accuracy
against the strength of the attack, its mean over [0, eps_g] shaded and in the legend.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from analysis.figures.panels import (
    adaptation,
    at_strength,
    judged,
    named,
    of_pair,
    pairs_of,
    robustness,
    what_is_judged,
)
from analysis.figures.style import blocks, legend, looks, styled
from analysis.names import strength_name
from analysis.results import Results
from core.config import ConfigError

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
    epochs = named(at_strength(results.epochs, at, results.table))
    curves, expected = judged(results)
    curves, expected = at_strength(curves, at, results.table), expected[expected["epsilon_g"] == at]
    pairs = pairs_of(at_strength(results.table, at, results.table))
    styles = looks([*epochs["setting"], *curves["setting"]])
    with styled():
        figure, grid = blocks(len(pairs), COLUMNS, rows=2)
        for i, pair in enumerate(pairs):
            above, below = grid[2 * (i // COLUMNS) :, i % COLUMNS][:2]
            above.set_title(", ".join(pair))
            above.set_xlabel("epoch")
            below.set_xlabel("attack strength (1/255)")
            adaptation(above, of_pair(epochs, pair), styles)
            robustness(below, of_pair(curves, pair), of_pair(expected, pair), at, styles)
            if i % COLUMNS == 0:
                above.set_ylabel("validation accuracy (%)")
                below.set_ylabel(what_is_judged(curves))
        legend(figure, styles, at, onset=True)
    return figure
