"""Single panels: training per epoch, and accuracy against the attack's strength.

Panels take rows of one (model, dataset) pair; seeds are thin lines behind their mean.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis.cells import Key, at, group_cells
from analysis.choice import one_evaluation
from analysis.figures.style import Looks, below, key_line, mean_line
from analysis.names import NORMS, datasets_in_order, models_in_order, settings_in_order
from analysis.results import Results
from analysis.statistics import median_delay
from core.config import Strength
from core.config.strength import in_pixels

Pair = tuple[str, str]


def named(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with setting names under which runs differ only in the seed: the variant is added to
    the name. Other hinges than the presets' are left out (a study of T1 and T2 has its own
    figures), unless there are no others.
    """
    texts = frame[["T1", "T2"]].astype("string")
    hinged = (frame["setting"] == "T1=" + texts["T1"] + ";T2=" + texts["T2"]).fillna(False)
    if not hinged.all():
        frame = frame[~hinged]
    if not frame["variant"].any():
        return frame
    return frame.assign(setting=frame["setting"] + " [" + frame["variant"] + "]")


def complete(values: pd.DataFrame) -> pd.DataFrame:
    """The complete cells of one evaluation, one row each with the fields of its key and its value;
    settings named as by `named`."""
    found = group_cells(named(one_evaluation(values)))
    return pd.DataFrame(
        [{**key._asdict(), "value": cell.value} for key, cell in found.items() if cell.complete],
        columns=[*Key._fields, "value"],
    )


def judged(results: Results) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(curves, rows of expected accuracy) of one evaluation, the same as in tables."""
    values = one_evaluation(results.values)
    curves = results.curves[results.curves["eval_id"].isin(values["eval_id"])]
    return named(curves), named(values[values["metric"] == "expected"])


def at_strength(frame: pd.DataFrame, strength: Strength, runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of runs trained at eps_g, and of standard runs of the same pairs. runs: the table of
    all runs."""
    pairs = pairs_of(at(runs, strength) if strength else runs[runs["epsilon_g"] == 0])
    mine = frame["epsilon_g"] == strength.in_255ths
    here = frame[(mine & (frame["norm"] == strength.norm)) | (frame["epsilon_g"] == 0)]
    there = [pair in pairs for pair in zip(here["model"], here["dataset"], strict=True)]
    return here[np.array(there, bool)]


def of_pair(frame: pd.DataFrame, pair: Pair) -> pd.DataFrame:
    return frame[(frame["model"] == pair[0]) & (frame["dataset"] == pair[1])]


def pairs_of(frame: pd.DataFrame) -> list[Pair]:
    """The (model, dataset) pairs of a frame, in the paper's order."""
    there = set(zip(frame["model"], frame["dataset"], strict=True))
    models, datasets = models_in_order(frame["model"]), datasets_in_order(frame["dataset"])
    return [pair for m in models for d in datasets if (pair := (m, d)) in there]


def _blank(axes: Axes) -> None:
    axes.text(0.5, 0.5, "no results yet", ha="center", color="#777777", transform=axes.transAxes)
    axes.set(xticks=[], yticks=[])


def adaptation(axes: Axes, epochs: pd.DataFrame, styles: Looks) -> None:
    """Clean validation accuracy per epoch, with a dotted line at the threshold of adaptation and a
    marker at the median adaptation delay over seeds (none if half of them or more never adapt)."""
    if epochs.empty:
        return _blank(axes)
    for limit in sorted(set(epochs["threshold"])):
        axes.axhline(limit, color="#999999", linewidth=0.7, linestyle=(0, (1, 2)))
    for setting, mean in _lines(axes, epochs, "val_clean", styles).items():
        at = _onset(epochs[epochs["setting"] == setting])
        if math.isfinite(at):
            point = at, np.interp(at, mean.index, mean.to_numpy())
            axes.plot(*point, styles[setting].marker, color=styles[setting].color, clip_on=False)
    axes.set_ylim(0, 100)


def _onset(epochs: pd.DataFrame) -> float:
    """The median epoch at which runs adapt, from their epochs so far; inf if at most half do."""
    last = epochs.groupby("run_id")["epoch"].max()
    above = epochs[epochs["val_clean"] > epochs["threshold"]]
    first = above.groupby("run_id")["epoch"].min().reindex(last.index)
    return median_delay(first.fillna(last + 1), last + 1)


def per_epoch(axes: Axes, epochs: pd.DataFrame, column: str, styles: Looks) -> None:
    """A column of the metrics against the epoch."""
    _lines(axes, epochs, column, styles)


def _lines(axes: Axes, epochs: pd.DataFrame, column: str, styles: Looks) -> dict[str, pd.Series]:
    means = {}
    for setting in settings_in_order(epochs["setting"]):
        mine = epochs[epochs["setting"] == setting]
        means[setting] = mean_line(axes, mine, "epoch", column, styles[setting])
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return means


def robustness(
    axes: Axes, curves: pd.DataFrame, expected: pd.DataFrame, strength: Strength, styles: Looks
) -> None:
    """Accuracy against the attack's strength, shaded over [0, eps_g], with expected accuracy in a
    legend below: 45.1, or 45.1 (2/3) if seeds are missing."""
    if curves.empty:
        return _blank(axes)
    lines = []
    curves = curves.assign(epsilon=curves["epsilon"] / unit(curves, "eval_norm"))
    epsilon_g = strength.in_255ths / unit(curves, "eval_norm")
    for setting in settings_in_order(curves["setting"]):
        style = styles[setting]
        mean = mean_line(axes, curves[curves["setting"] == setting], "epsilon", "accuracy", style)
        inside = mean[mean.index <= epsilon_g]
        axes.fill_between(inside.index, inside.to_numpy(), color=style.color, alpha=0.12, lw=0)
        seeds = expected.loc[expected["setting"] == setting, "value"]
        shown = f"{seeds.mean():.1f}" if seeds.count() else "?"
        missing = f" ({seeds.count()}/{len(seeds)})" if seeds.hasnans else ""
        lines.append(key_line(f"{setting}: {shown}{missing}", style))
    axes.axvline(epsilon_g, color="#999999", linewidth=0.7)
    axes.set_ylim(0, 100)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=unit(curves, "eval_norm") == 1))
    below(axes, lines, "expected (%)")


def unit(frame: pd.DataFrame, column: str) -> int:
    """How many 255ths the unit of an axis of strengths is: 1 for l-inf, 255 for l2 and l1, whose
    strengths are plain numbers. column: has the norms."""
    return 1 if all(not norm or in_pixels(norm) for norm in set(frame[column])) else 255


def unit_name(frame: pd.DataFrame, column: str) -> str:
    """The unit of an axis of strengths: '1/255', or the norm of plain numbers ('l2')."""
    names = [NORMS[norm] for norm in sorted(set(frame[column])) if norm]
    return "1/255" if unit(frame, column) == 1 else ", ".join(names)


def attack_axis(curves: pd.DataFrame) -> str:
    """The label of the axis of attack strengths."""
    return f"attack strength ({unit_name(curves, 'eval_norm')})"


def what_is_judged(curves: pd.DataFrame) -> str:
    """The label of the accuracy axis: 'test accuracy (%)', and below it the attack and the number
    of images, 'APGD-10, n = 512'."""
    if curves.empty:
        return "accuracy (%)"
    counts = sorted(set(curves["n"]))
    images = " to ".join(str(n) for n in dict.fromkeys([counts[0], counts[-1]]))
    splits, attacks = (" and ".join(dict.fromkeys(curves[name])) for name in ("split", "attack"))
    return f"{splits} accuracy (%)\n{attacks}, n = {images}"
