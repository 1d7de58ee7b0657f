"""Tidy frame -> cells: a number of a table, its spread over seeds, and whether some are missing."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from core.config import Strength
from core.config.strength import Norm


class Key(NamedTuple):
    """Names a cell. evaluation: '' if the source has only one. epsilon_g: in 255ths, in `norm`."""

    variant: str
    evaluation: str
    model: str
    dataset: str
    epsilon_g: float
    setting: str
    metric: str
    norm: Norm = "linf"

    @property
    def strength(self) -> Strength:
        """eps_g as a Strength."""
        return Strength.of_255ths(self.epsilon_g, self.norm)


@dataclass(frozen=True, slots=True)
class Cell:
    """A mean in percent over `measured` of the `asked` seeds (or datasets, or models)."""

    value: float | None
    """None if nothing is measured."""
    std: float | None
    """Sample standard deviation over seeds; None for a single one."""
    measured: int
    asked: int
    n: tuple[int, ...]
    """Distinct numbers of images behind the parts (for seeds, the smallest and the largest); () if
    unknown."""
    state: str = "done"
    """'done', or the state of the first incomplete part: failed, running, missing, ..."""
    reason: str = ""
    unit: str = "seeds"
    constant: int = 0
    """How many seeds have a run that gives every image the same label."""

    @property
    def over_seeds(self) -> bool:
        """Whether it is a mean over seeds, not over datasets or models."""
        return self.unit == "seeds"

    @property
    def complete(self) -> bool:
        """Whether every part asked for is measured on all its images, and all seeds on the same
        number."""
        same = not self.over_seeds or len(self.n) <= 1
        return self.state == "done" and self.measured == self.asked and same


BY = ["eval_id" if name == "evaluation" else name for name in Key._fields]
"""The frame's columns that make up a key."""


def group_cells(frame: pd.DataFrame) -> dict[Key, Cell]:
    """The cells of a frame from `analysis.load` or `published.read`, in the frame's order.

    Only seeds are averaged. A seed without a value makes its cell incomplete.
    """
    groups = frame.groupby(BY, sort=False)
    table = groups.agg(
        value=("value", "mean"),
        std=("value", "std"),
        measured=("value", "count"),
        asked=("value", "size"),
        low=("n", "min"),
        high=("n", "max"),
        constant=("constant", "sum"),
    )
    incomplete = frame[frame["state"] != "done"].drop_duplicates(BY).set_index(BY)
    table = table.join(incomplete[["state", "reason"]])
    table = table.fillna({"state": "done", "reason": ""})
    return {Key(*row[0]): _cell(*row[1:]) for row in table.itertuples(name=None)}


def strengths(frame: pd.DataFrame) -> list[Strength]:
    """The distinct eps_g of a frame's rows, ascending; 0 for standard runs."""
    found = frame[["epsilon_g", "norm"]].drop_duplicates()
    return sorted(Strength.of_255ths(*row) for row in found.itertuples(index=False, name=None))


def at(frame: pd.DataFrame, strength: Strength) -> pd.DataFrame:
    """The rows at one eps_g."""
    return frame[(frame["epsilon_g"] == strength.in_255ths) & (frame["norm"] == strength.norm)]


def sources(frame: pd.DataFrame) -> dict[Key, list[dict[str, Any]]]:
    """The rows behind each cell, one per seed."""
    found: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    records: Any = frame.to_dict("records")
    for row in records:
        found[Key(*(row[name] for name in BY))].append(row)
    return found


def _cell(
    value: float,
    std: float,
    measured: int,
    asked: int,
    low: int,
    high: int,
    constant: int,
    state: str,
    reason: str,
) -> Cell:
    counts = tuple(sorted({int(n) for n in (low, high) if not pd.isna(n)}))
    mean = None if pd.isna(value) else value
    spread = None if pd.isna(std) else std
    return Cell(mean, spread, measured, asked, counts, state, reason, constant=int(constant))
