"""What a report on a grid of the Guide shows besides its runs: sentences, tables and figures."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from analysis.guide import effects
from analysis.guide.design import METRICS
from analysis.guide.figures import CAPTIONS, FIGURES
from analysis.guide.measurements import records
from analysis.guide.ranking import rank
from analysis.guide.tables import ANALYSES, USUAL, lay_out
from analysis.rounding import half_up
from analysis.tables import ABSENT, Table


def sentences(frame: pd.DataFrame) -> Iterator[str]:
    """The winner of each protocol, how many configurations are complete, and how the losses
    compare."""
    table = rank(frame)
    for protocol in dict.fromkeys(table["protocol"]):
        rows = table[table["protocol"] == protocol]
        able = rows[rows["rank"].notna()]
        for first in records(able.head(1)):
            yield (
                f"{protocol}: {first['backbone']} with {first['loss']} ranks first of {len(able)} "
                f"(Borda count {first['borda']}, score sum {first['score_sum']:.3f})."
            )
        if len(able) < len(rows):
            yield (
                f"{protocol}: {len(able)} of {len(rows)} configurations are measured on every "
                "dataset; ranks are among these."
            )
    wins = effects.count_wins(frame)
    for row in records(wins[wins["size"] == "all"]):
        yield (
            f"{row['protocol']}: TRADES is above classic AT on {row['trades']} of "
            f"{row['backbones']} backbones (sign test: p = {row['sign_p']:.2g})."
        )


def accuracies(frame: pd.DataFrame, values: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Run id -> those of its five accuracies that the page's own table lacks, in percent. values:
    the rows of that table, from `analysis.load`."""
    shown = {"clean", *values["eval_norm"]}
    return {
        row["run_id"]: {
            name: ABSENT if pd.isna(row[name]) else str(half_up(100 * row[name]))
            for name in METRICS
            if name not in shown
        }
        for row in records(frame)
        if row["run_id"]
    }


def laid_out(frame: pd.DataFrame) -> list[Table]:
    """Every analysis except the measurements, which the page shows cell by cell."""
    return [table for name in USUAL for table in lay_out(ANALYSES[name], frame)]


def drawn(frame: pd.DataFrame) -> Iterator[tuple[str, Figure, str]]:
    """Yields (file stem, figure, caption)."""
    for name, draw in FIGURES.items():
        for stem, figure in draw(frame):
            yield stem, figure, CAPTIONS[name]
