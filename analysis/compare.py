"""Our numbers beside the published ones: which agree, and by how much the others differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pandas as pd

from analysis.cells import Cell, Key
from analysis.names import METRICS, paper_order
from analysis.paper import table_cells
from analysis.published import TABLES, load_published
from analysis.rounding import half_up
from analysis.tables import ABSENT, TITLES, Entry, Table, number
from core.config import ConfigError


@dataclass(frozen=True)
class Agreement:
    """How many numbers of a table equal the published ones to the printed digit."""

    equal: int
    different: int
    unprinted: int
    """Numbers of ours without a published counterpart or value."""

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            self.equal + other.equal,
            self.different + other.different,
            self.unprinted + other.unprinted,
        )

    def __str__(self) -> str:
        total = self.equal + self.different
        text = f"{self.equal} of {total} numbers equal to the published"
        return f"{text}, {self.unprinted} without a counterpart" if self.unprinted else text


def agreement(ours: Mapping[Key, Cell], published: Mapping[Key, Cell]) -> Agreement:
    """Compare cell by cell, whatever the variant; the attacks of Table 6 are matched by name."""
    theirs = {key._replace(variant=""): cell for key, cell in published.items()}
    equal = different = unprinted = 0
    for key, cell in ours.items():
        other = theirs.get(key._replace(variant=""))
        if other is None or cell.value is None or other.value is None:
            unprinted += 1
        elif half_up(cell.value) == half_up(other.value):
            equal += 1
        else:
            different += 1
    return Agreement(equal, different, unprinted)


def comparison(
    ours: Mapping[Key, Cell],
    published: Mapping[Key, Cell],
    title: str,
    called: Mapping[str, str] = MappingProxyType({}),
) -> Table:
    """One line per (model, dataset, eps_g, setting), per attack if the published table has several,
    and per variant of ours: for each metric ours, the published value and the difference. called:
    name of our attack -> its name in the published table."""
    attacks = len({key.evaluation for key in published}) > 1
    mine, theirs = (_lines(side, attacks) for side in (ours, published))
    other = {line: (*line[:-2], called.get(line[-2], line[-2]), "") for line in mine}
    found = {*other.values()}
    lines = [*mine, *(line for line in theirs if line not in found)]
    fields = [name for i, name in enumerate(FIELDS) if i < 4 or any(line[i] for line in lines)]
    rows = tuple(
        (_labels(line, fields), _numbers(mine.get(line, {}), theirs.get(other.get(line, line), {})))
        for line in paper_order(lines, FIELDS)
    )
    header = [(metric, who) for metric in METRICS for who in ("ours", "published", "difference")]
    return Table(
        title,
        tuple(TITLES[name] for name in fields),
        tuple(header),
        rows,
        ("difference = ours - published, in points; a dash if one side has no number",),
        complete=all(cell.complete for cell in ours.values()),
    )


FIELDS = ("model", "dataset", "strength", "setting", "evaluation", "variant")
Line = tuple[Any, ...]
"""Values of the FIELDS; `evaluation` is '' if the published table has one attack."""


def _lines(cells: Mapping[Key, Cell], attacks: bool) -> dict[Line, dict[str, Cell]]:
    """Line -> metric -> cell."""
    found: dict[Line, dict[str, Cell]] = defaultdict(dict)
    for key, cell in cells.items():
        named = key if attacks else key._replace(evaluation="")
        found[tuple(getattr(named, name) for name in FIELDS)][key.metric] = cell
    return found


def _labels(line: Line, fields: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(line[FIELDS.index(name)]) for name in fields)


def _numbers(mine: Mapping[str, Cell], theirs: Mapping[str, Cell]) -> tuple[Entry, ...]:
    entries = []
    for metric in METRICS:
        a, b = mine.get(metric), theirs.get(metric)
        entries += [Entry(number(cell) if cell else ABSENT) for cell in (a, b)]
        entries.append(Entry(_difference(a, b)))
    return tuple(entries)


def _difference(ours: Cell | None, theirs: Cell | None) -> str:
    if ours is None or theirs is None or ours.value is None or theirs.value is None:
        return ABSENT
    return f"{half_up(ours.value - theirs.value):+}"


def with_published(values: pd.DataFrame, number: int) -> Table:
    """A table of the paper with ours, the published value and the difference. Raises ConfigError
    for a table without published numbers."""
    if number not in TABLES:
        known = ", ".join(map(str, TABLES))
        raise ConfigError(f"--compare: Table {number} has no published numbers, expected {known}")
    printed = load_published(number)
    ours, theirs = (table_cells(number, frame) for frame in (values, printed))
    title = f"Table {number}: ours and published"
    return comparison(ours, theirs, title, _called(values, printed))


def _called(values: pd.DataFrame, printed: pd.DataFrame) -> dict[str, str]:
    """Name of our attack -> the published table's name for an attack of the same kind."""
    theirs = dict(zip(printed["kind"], printed["attack"], strict=True))
    ours = values.loc[values["kind"].isin(theirs), ["attack", "kind"]].drop_duplicates()
    return {attack: theirs[kind] for attack, kind in ours.itertuples(index=False, name=None)}
