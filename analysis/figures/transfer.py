"""The demo's figure: how each (backbone, dataset) pair adapts, and how robust it is at the end.

Two panels for each: validation accuracy per epoch, with the epoch at which adaptation begins; and
accuracy against the strength of the attack, with its mean over [0, eps_g] shaded and as a number.
"""

from __future__ import annotations

from matplotlib.axes import Axes
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
from analysis.figures.style import blocks, legend, looks, make_room, matrix, pair_title, styled
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
        figure, panels = _panels(len(pairs))
        make_room(figure, -(-len(pairs) // COLUMNS), len(styles))
        for i, (pair, (first, second)) in enumerate(zip(pairs, panels, strict=True)):
            first.set_title(pair_title(pair))
            first.set_xlabel("epoch")
            second.set_xlabel(attack_axis(curves))
            adaptation(first, of_pair(epochs, pair), styles)
            robustness(second, of_pair(curves, pair), of_pair(expected, pair), strength, styles)
            if i % COLUMNS == 0:
                first.set_ylabel("validation accuracy (%)")
                second.set_ylabel(what_is_judged(curves))
        legend(figure, styles, strength, onset=True)
    return figure


def _panels(pairs: int) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """A figure, and two panels for each pair: one above the other, or side by side if there are at
    most two pairs, which keeps the figure wider than high."""
    if 2 * pairs <= COLUMNS:
        figure, grid = matrix(1, 2 * pairs)
        return figure, [(grid[0, 2 * i], grid[0, 2 * i + 1]) for i in range(pairs)]
    figure, grid = blocks(pairs, COLUMNS, rows=2)
    places = [(2 * (i // COLUMNS), i % COLUMNS) for i in range(pairs)]
    return figure, [(grid[row, column], grid[row + 1, column]) for row, column in places]
