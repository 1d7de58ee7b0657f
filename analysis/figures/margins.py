"""Figures of margin consistency: margins against distances, ROC of detection, estimated accuracy.

All use the logit margin. Seeds are pooled; of several evaluations with margins the usual one is
drawn, see `analysis.choice`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.cells import strengths
from analysis.choice import usual
from analysis.figures.panels import at_strength, named, of_pair, pairs_of, unit, unit_name
from analysis.figures.style import Looks, above, blocks, looks, matrix, pair_title, styled
from analysis.figures.training import stem
from analysis.margins.detection import Images, detect, estimates, is_rare, is_scarce, known, roc
from analysis.margins.rows import read_arrays, strengths_of
from analysis.names import settings_in_order
from analysis.results import Results
from analysis.rounding import half_up
from core.config import Strength
from core.config.strength import NO_ATTACK

Drawn = Iterator[tuple[str, Figure]]
PANEL = (2.1, 1.9)
SQUARE = (3.0, 3.0)
SHOWN = (5, 95)
"""Percentiles of the distances that a panel shows, as in the paper."""
RULES = {"fixed": "threshold at TPR 95 %", "best": "threshold at the best TPR"}


def hexbins(results: Results) -> Drawn:
    """Logit margin against the distance to the decision boundary: a row per (model, dataset), a
    column per setting, a figure per eps_g."""
    for strength, mine in _by_strength(results):
        pairs, settings = pairs_of(mine), settings_in_order(mine["setting"])
        with styled():
            figure, grid = matrix(len(pairs), len(settings), panel=PANEL)
            for i, pair in enumerate(pairs):
                for j, setting in enumerate(settings):
                    here = of_pair(mine, pair)
                    _hexbin(grid[i, j], results, here[here["setting"] == setting])
                    grid[i, j].set_title(f"{pair_title(pair)}\n{grid[i, j].get_title()}")
                grid[i, 0].set_ylabel("logit margin")
            for axes in grid[-1]:
                axes.set_xlabel(f"distance ({unit_name(mine, 'eval_norm')})")
            title = rf"$\epsilon_g$ = {strength}" if strength else "not attacked"
            figure.suptitle(title, fontsize=8)
        yield stem("margins", strength), figure


def _hexbin(axes: Axes, results: Results, rows: pd.DataFrame) -> None:
    if rows.empty:
        axes.set_axis_off()
        return
    arrays = [_images(results, row) for row in rows.to_dict("records")]
    scale = 255 / unit(rows, "eval_norm")
    distance = np.concatenate([one["distance"] for one in arrays]) * scale
    margin = np.concatenate([one["logit_margin"] for one in arrays])
    name, tau = rows["setting"].iloc[0], rows["value"].mean()
    if np.isnan(tau):  # a constant network, most likely
        axes.set_title(f"{name}: no tau, n = {len(distance)}")
        return
    low, high = np.percentile(distance[np.isfinite(distance)], SHOWN)
    inside = (distance >= low) & (distance <= high)
    axes.hexbin(distance[inside], margin[inside], gridsize=18, mincnt=1, cmap="Blues", vmin=-1)
    axes.grid(visible=False)
    axes.set_title(f"{name}: tau = {half_up(tau, 3)}, n = {len(distance)}")


def curves(results: Results) -> Drawn:
    """ROC of detecting brittle images at eps_g, or at the nearest strength with ten brittle and ten
    robust images: a panel per (model, dataset), a line per setting."""
    for strength, mine in _by_strength(results):
        pairs, styles = pairs_of(mine), looks(mine["setting"])
        with styled():
            figure, grid = blocks(len(pairs), 3)
            figure.set_size_inches(2.6 * grid.shape[1] + 0.4, 2.5 * grid.shape[0] + 0.3)
            for pair, axes in zip(pairs, grid.flat, strict=False):
                _roc(axes, results, of_pair(mine, pair), strength, styles)
                axes.set(title=", ".join(pair), xlabel="false positive rate")
            for axes in grid[:, 0]:
                axes.set_ylabel("true positive rate")
            title = rf"$\epsilon_g$ = {strength}" if strength else "not attacked"
            figure.suptitle(f"Brittle images by the logit margin, {title}", fontsize=8)
        yield stem("roc", strength), figure


def _roc(
    axes: Axes, results: Results, rows: pd.DataFrame, strength: Strength, styles: Looks
) -> None:
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.7)
    for setting in settings_in_order(rows["setting"]):
        same = rows[rows["setting"] == setting].to_dict("records")
        arrays = [_images(results, row) for row in same]
        margin = np.concatenate([one["logit_margin"] for one in arrays]).astype(float)
        distance = np.concatenate([one["distance"] for one in arrays])
        at = _telling(distance, _tried(results, same[0]), strength)
        if at is None:
            axes.plot([], [], linestyle="", label=f"{setting}: skipped")
            continue
        brittle = distance <= float(at)
        found, style = detect(margin, brittle), styles[setting]
        label = f"{setting} at {at}: {half_up(found.auroc, 3)}"
        axes.plot(*roc(margin, brittle), color=style.color, linestyle=style.line, label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    if len(axes.lines) > 1:
        axes.legend(loc="lower right", title="AUROC", title_fontsize=7, handlelength=1.6)


def _telling(
    distance: np.ndarray, tried: Sequence[Strength], strength: Strength
) -> Strength | None:
    """The strength nearest to `strength` at which at least ten images are brittle and ten robust;
    None if there is no such strength. distance: of each image, shape [n]."""
    shares = {one: float((distance <= float(one)).mean()) for one in tried}
    able = [one for one, share in shares.items() if not is_scarce(share, len(distance))]
    return min(able, key=lambda one: abs(float(one) - float(strength)), default=None)


def estimated(results: Results) -> Drawn:
    """Robust accuracy estimated from few distances, against that from all: a panel per rule for the
    threshold, a dot per run, strength and draw."""
    mine = _measured(results)
    if mine.empty:
        return
    styles = looks(mine["setting"])
    with styled():
        figure, grid = matrix(1, len(RULES), panel=SQUARE)
        for row in mine.to_dict("records"):
            arrays = _images(results, row)
            for strength in _tried(results, row):
                brittle = arrays["distance"] <= float(strength)
                if is_rare(brittle):
                    continue
                margin, right = arrays["logit_margin"].astype(float), arrays["correct"].astype(bool)
                images = Images(margin, brittle, right)
                made, truth = estimates(images), 100 * images.accuracy()
                for axes, rule in zip(grid[0], RULES, strict=True):
                    drawn, style = 100 * np.array(getattr(made, rule)), styles[row["setting"]]
                    look = {"color": style.color, "marker": style.marker, "markersize": 2.5}
                    axes.plot([truth] * len(drawn), drawn, linestyle="", alpha=0.5, **look)
        for axes, title in zip(grid[0], RULES.values(), strict=True):
            axes.axline((0, 0), slope=1, color="#999999", linewidth=0.7)
            axes.set(title=title, xlabel="robust accuracy from all distances (%)", aspect="equal")
            axes.set(xlim=(0, 100), ylim=(0, 100))
        sizes = ", ".join(f"{known(n)} of {n}" for n in sorted({*mine["n"]}))
        grid[0, 0].set_ylabel(f"from {sizes} (%)")
        dots = [
            Line2D([], [], color=style.color, marker=style.marker, linestyle="", label=name)
            for name, style in styles.items()
        ]
        above(figure, dots)
    yield "estimates", figure


def _measured(results: Results) -> pd.DataFrame:
    """The rows with Kendall's tau by the logit margin, under one evaluation."""
    frame = named(results.margins)
    frame = frame[(frame["metric"] == "tau") & (frame["score"] == "logit")]
    return frame[frame["eval_id"] == usual(frame)] if len(frame) else frame


def _by_strength(results: Results) -> Iterator[tuple[Strength, pd.DataFrame]]:
    """Yields (eps_g, rows of the runs trained against it and of standard runs)."""
    frame = _measured(results)
    for strength in sorted(filter(None, strengths(frame))) or [NO_ATTACK] * bool(len(frame)):
        yield strength, at_strength(frame, strength, results.table)


def _images(results: Results, row: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    run = next(run for run in results.runs if run.dir.id == row["run_id"])
    return read_arrays(run, str(row["eval_id"]))


def _tried(results: Results, row: Mapping[Any, Any]) -> list[Strength]:
    run = next(run for run in results.runs if run.dir.id == row["run_id"])
    return strengths_of(next(e.config for e in run.evaluations if e.id == row["eval_id"]))
