"""The demo's figure: how each (backbone, dataset) pair adapts, and how robust it is at the end.

Above, validation accuracy per epoch with the epoch at which adaptation begins; below, accuracy
against the strength of the attack, with its mean over [0, eps_g] shaded and in the legend.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from analysis.cells import at, strengths
from analysis.figures.panels import (
    adaptation,
    at_strength,
    attack_axis,
    judged,
    named,
    of_pair,
    pairs_of,
    robustness,
    what_is_judged,
)
from analysis.figures.style import blocks, legend, looks, make_room, styled
from analysis.results import Results
from core.config import ConfigError, Strength

COLUMNS = 4


def draw_transfer(results: Results, strength: Strength | None = None) -> Figure:
    """The figure for one eps_g, by default the largest.

    Unfinished runs are shown as far as they have come. Raises ConfigError if no run was trained at
    `strength`.
    """
    trained = [found for found in strengths(results.table) if found]
    if not trained or (strength is not None and strength not in trained):
        known = ", ".join(map(str, trained)) or "none"
        raise ConfigError(f"no run was trained at strength {strength} (expected: {known})")
    strength = strength or trained[-1]
    epochs = named(at_strength(results.epochs, strength, results.table))
    curves, expected = judged(results)
    curves, expected = at_strength(curves, strength, results.table), at(expected, strength)
    pairs = pairs_of(at_strength(results.table, strength, results.table))
    styles = looks([*epochs["setting"], *curves["setting"]])
    with styled():
        figure, grid = blocks(len(pairs), COLUMNS, rows=2)
        make_room(figure, len(grid) // 2, len(styles))
        for i, pair in enumerate(pairs):
            above, below = grid[2 * (i // COLUMNS) :, i % COLUMNS][:2]
            above.set_title(", ".join(pair))
            above.set_xlabel("epoch")
            below.set_xlabel(attack_axis(curves))
            adaptation(above, of_pair(epochs, pair), styles)
            robustness(below, of_pair(curves, pair), of_pair(expected, pair), strength, styles)
            if i % COLUMNS == 0:
                above.set_ylabel("validation accuracy (%)")
                below.set_ylabel(what_is_judged(curves))
        legend(figure, styles, strength, onset=True)
    return figure
