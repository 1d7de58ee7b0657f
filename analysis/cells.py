"""Tidy frame -> cells: one number of a table, its spread over seeds, and what is missing in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd


class Key(NamedTuple):
    """Which number of a table. evaluation: '' where a source has only one."""

    variant: str
    evaluation: str
    model: str
    dataset: str
    epsilon_g: float
    setting: str
    metric: str


@dataclass(frozen=True, slots=True)
class Cell:
    """value: mean over seeds in percent, None where nothing is measured."""

    value: float | None
    std: float | None
    """Sample standard deviation over seeds, None for a single one."""
    seeds: int
    asked: int
    n: tuple[int, ...]
    """Distinct counts of images behind the seeds' values; () where the source tells none."""
    state: str = "done"
    """'done', or what the first incomplete run is: failed, running, missing, partial, ..."""
    reason: str = ""

    @property
    def complete(self) -> bool:
        """Every asked seed is measured on all its images, and all on equally many."""
        return self.state == "done" and self.seeds == self.asked and len(self.n) <= 1


COLUMNS = {"evaluation": "eval_id"}
"""Fields of Key that the frame calls otherwise."""


def cells(frame: pd.DataFrame) -> dict[Key, Cell]:
    """The cells of a frame as `analysis.load` or `published.read` gives it, in its order.

    Only seeds are averaged; an unmeasured seed makes its cell incomplete, never smaller.
    """
    by = [COLUMNS.get(field, field) for field in Key._fields]
    groups = frame.groupby(by, sort=False)
    table = groups.agg(
        value=("value", "mean"),
        std=("value", "std"),
        seeds=("value", "count"),
        asked=("value", "size"),
        low=("n", "min"),
        high=("n", "max"),
    )
    incomplete = frame[frame["state"] != "done"].drop_duplicates(by).set_index(by)
    table = table.join(incomplete[["state", "reason"]])
    table = table.fillna({"state": "done", "reason": ""})
    return {Key(*row[0]): _cell(*row[1:]) for row in table.itertuples(name=None)}


def _cell(
    value: float,
    std: float,
    seeds: int,
    asked: int,
    low: int,
    high: int,
    state: str,
    reason: str,
) -> Cell:
    counts = tuple(sorted({int(n) for n in (low, high) if not pd.isna(n)}))
    mean = None if pd.isna(value) else value
    return Cell(mean, None if pd.isna(std) else std, seeds, asked, counts, state, reason)
