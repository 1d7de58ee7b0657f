"""The analyses of the Guide by name, and how each is laid out as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analysis.guide import correlations, effects, ranking
from analysis.guide.design import CELL, DATASETS, METRICS
from analysis.guide.measurements import records
from analysis.rounding import half_up
from analysis.tables import ABSENT, DAGGER, Entry, Table, some

Format = Callable[[float], str]


def _percent(value: float) -> str:
    return str(half_up(100 * value))


def _decimals(digits: int) -> Format:
    return lambda value: str(half_up(value, digits))


def _significant(value: float) -> str:
    """Three significant digits, for odds, p-values and products, which may be tiny."""
    return f"{value:.3g}"


ACCURACIES = (*METRICS, "robust", "of_best", "published")
TINY = (
    *("score_geom", "geom", "p", "welch_p", "cells_p", "interaction_p", "published_p", "sign_p"),
    *("U_p", "backbones_p", "adjusted_p"),
)
FORMATS: Mapping[str, Format] = {
    **dict.fromkeys(ACCURACIES, _percent),
    **dict.fromkeys(TINY, _significant),
    **dict.fromkeys(("rho", "pooled", "per_dataset", "score_sum", "sum"), _decimals(3)),
    **dict.fromkeys(("mean_borda", "mean_continuity", "mean_switch", "U"), _decimals(1)),
    **dict.fromkeys(("odds", "published_odds"), _significant),
}
"""Column -> format of its numbers; by default two decimals, and integers as they are."""
HEADINGS = {
    "rank": "GR",
    "rank_sum": "by sum",
    "rank_geom": "by product",
    "score_sum": "sum",
    "score_geom": "product",
    "geom": "product",
    "pretraining": "pre-training",
    "mean_borda": "mean Borda",
    "welch_F": "Welch F",
    "welch_p": "Welch p",
    "backbones_p": "p of backbones",
    "adjusted_p": "p beyond the others",
    "U_p": "p (U)",
    "cells_F": "F of cells",
    "cells_p": "p of cells",
    "df_residual": "df of residual",
    "interaction_F": "F of interaction",
    "interaction_p": "p of interaction",
    "published_odds": "odds as published",
    "published_p": "p as published",
    "sign_p": "p of sign test",
    "per_dataset": "per dataset",
    "of_best": "of the best",
    "published": "as published",
    "mean_continuity": "mean (continuity)",
    "mean_switch": "mean (switch)",
    "classic": "classic AT",
    "trades": "TRADES",
    "robust": "mean of the other four",
    "borda": "Borda",
}
"""Column -> its heading, if it differs from the name."""


@dataclass(frozen=True)
class Analysis:
    """How a table is made. stub: columns that label its rows. hidden: columns only in tidy data."""

    title: str
    frame: Callable[[pd.DataFrame], pd.DataFrame]
    stub: tuple[str, ...]
    notes: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    apart: bool = False
    """Whether there is one table per protocol."""
    grouped: bool = False
    """Whether its rows are grouped by the first column of the stub."""
    formats: Mapping[str, Format] = field(default_factory=dict)
    """Formats of columns that differ from FORMATS."""


ANALYSES: Mapping[str, Analysis] = {
    "ranking": Analysis(
        "Ranking",
        ranking.rank,
        ("backbone", "loss"),
        (
            "Borda: points over five accuracies and all datasets, 1 for the worst, ties get the "
            "lowest; sum and product: of the five accuracies (fractions), summed over datasets",
        ),
        ("name", "size", "type", "pretraining", "datasets", "state"),
        apart=True,
    ),
    "medals": Analysis(
        "Three best of each size",
        ranking.medals,
        ("size", "medal", "backbone", "loss"),
        apart=True,
        grouped=True,
    ),
    "best": Analysis(
        "Best on each dataset",
        ranking.best,
        ("dataset", "backbone", "loss"),
        ("Borda: points on that dataset, at most 5 x 80 in the published grid; accuracies in %",),
        apart=True,
    ),
    "means": Analysis(
        "Clean accuracy and the mean of the other four",
        ranking.means,
        ("backbone", "loss"),
        ("means over datasets, in %",),
        ("name", "size"),
        apart=True,
    ),
    "heatmap": Analysis(
        "Spearman's correlation of the accuracies",
        correlations.heat_map,
        ("metric",),
        hidden=("rows",),
        apart=True,
        formats=dict.fromkeys(METRICS, _decimals(3)),
    ),
    "correlation": Analysis(
        "Mean absolute Spearman correlation between the accuracies",
        correlations.mean_correlations,
        ("factor", "level"),
        (
            "pooled: over all datasets together; per dataset: on each, then averaged; undefined: "
            "datasets on which an accuracy is constant in the group, so its pairs are left out",
        ),
        apart=True,
        grouped=True,
    ),
    "proxies": Analysis(
        "Low-cost proxies",
        correlations.proxies,
        ("proxy", "against", "loss"),
        ("Spearman's correlation of score sums over configurations",),
    ),
    "wins": Analysis(
        "TRADES against classic AT",
        effects.count_wins,
        ("protocol", "size"),
        (
            "number of backbones on which each has the higher score sum; odds and p as published: "
            "Fisher's test of [[T, C], [C, T]], which counts every backbone twice and squares the "
            "odds",
        ),
        grouped=True,
    ),
    "effects": Analysis(
        "Main effects on Borda counts",
        effects.test_factors,
        ("protocol", "factor"),
        (
            "one-way ANOVA with equal variances (as published) and Welch's, which the paper names; "
            "of backbones: each counts once (losses are compared within backbones); beyond the "
            "others: with the other three factors held fixed, without interactions",
        ),
        grouped=True,
    ),
    "letters": Analysis(
        "Levels of each factor",
        effects.mark_levels,
        ("factor", "level"),
        (f"levels that share a letter do not differ by Tukey's HSD at alpha = {effects.ALPHA:g}",),
        apart=True,
        grouped=True,
    ),
    "interactions": Analysis(
        "Two factors at a time",
        effects.test_interactions,
        ("protocol", "factors"),
        (
            "of cells: one-way ANOVA over all combinations, published as the interaction; its p is "
            "small whenever cells differ, with or without interaction; of interaction: all "
            "cells against the additive model",
        ),
        grouped=True,
    ),
    "switch": Analysis(
        "Robust backbones: same loss (classic AT) or another (TRADES)",
        effects.compare_losses,
        ("protocol",),
        (
            f"without {effects.OTHER_RECIPE}; Borda counts; t: Welch, U: Mann-Whitney, two-sided; "
            "d: Cohen's, positive if the same loss is better",
        ),
    ),
    "top": Analysis(
        "Share of the same loss among the k best robust configurations",
        effects.share_of_top,
        ("protocol", "k"),
        ("in %; as published: of the k worst, as the paper sorts ranks in descending order",),
        grouped=True,
    ),
    "measurements": Analysis(
        "Measurements",
        lambda frame: frame[[*CELL, *METRICS, "sum", "geom", "n", "state", "reason", "run_id"]],
        ("backbone", "loss", "dataset"),
        ("accuracies in %; sum and product of the five as fractions",),
        ("n", "reason", "run_id"),
        apart=True,
    ),
}
DATASET_NAMES = {theirs: ours for ours, theirs in DATASETS.items()}
"""Published name -> our shorter one, for printed tables; tidy data keeps the published names."""
NAMES = tuple(ANALYSES)
USUAL = tuple(name for name in NAMES if name != "measurements")
"""The analyses shown by default."""


def lay_out(analysis: Analysis, frame: pd.DataFrame) -> list[Table]:
    """The tables of one analysis."""
    found = analysis.frame(frame)
    notes = [*analysis.notes, *missing(frame)]
    if not analysis.apart or found.empty:
        return [_table(analysis, analysis.title, found, notes)]
    return [
        _table(
            analysis, f"{analysis.title}, {protocol}", found[found["protocol"] == protocol], notes
        )
        for protocol in dict.fromkeys(found["protocol"])
    ]


def missing(frame: pd.DataFrame) -> list[str]:
    """One line per reason why cells are not measured, naming the first ones."""
    lacking = frame[frame["state"] != "done"]
    reasons = lacking["state"].where(
        lacking["reason"] == "", lacking["state"] + " (" + lacking["reason"] + ")"
    )
    return [
        f"{DAGGER} {reason}, {len(rows)} of {len(frame)} cells: "
        + some(["/".join(cell) for cell in rows[CELL].itertuples(index=False)])
        for reason, rows in lacking.groupby(reasons, sort=False)
    ]


def _table(analysis: Analysis, title: str, found: pd.DataFrame, notes: Sequence[str]) -> Table:
    columns = [
        str(name) for name in found if name not in {*analysis.stub, *analysis.hidden, "protocol"}
    ]
    rows, formats = [], {**FORMATS, **analysis.formats}
    for row in records(found):
        mark = DAGGER * (row.get("state", "done") != "done")
        labels = tuple(DATASET_NAMES.get(row[name], str(row[name])) for name in analysis.stub)
        rows.append(
            (labels, tuple(Entry(_shown(name, row[name], formats), mark=mark) for name in columns))
        )
    return Table(
        title,
        tuple(HEADINGS.get(name, name).capitalize() for name in analysis.stub),
        tuple((_heading(name),) for name in columns),
        tuple(rows),
        tuple(notes),
        grouped=analysis.grouped,
        complete=not any(note.startswith(DAGGER) for note in notes),
    )


def _heading(column: str) -> str:
    name, _, kind = column.partition(" ")  # as in 'clean published' of comparisons
    return f"{HEADINGS.get(name, name)} {kind}".rstrip()


def _shown(name: str, value: Any, formats: Mapping[str, Format]) -> str:
    if isinstance(value, str):
        return value
    if value is None or pd.isna(value):
        return ABSENT
    if value == float("inf"):
        return "inf"
    plain = name.partition(" ")[0]
    if plain in formats:
        return formats[plain](value)
    return str(value) if isinstance(value, int) else str(half_up(value))
