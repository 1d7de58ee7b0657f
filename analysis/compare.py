"""Ours beside the published: which numbers agree, and by how much the others differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from analysis.cells import Cell, Key
from analysis.names import (
    METRICS,
    SETTINGS,
    datasets_in_order,
    in_order,
    models_in_order,
    strength_name,
)
from analysis.rounding import half_up
from analysis.tables import ABSENT, Entry, Table, number

Match = tuple[str, str, float, str, str]


def same(key: Key) -> Match:
    """What identifies a number whoever measured it: the attack's name is not compared."""
    return key.model, key.dataset, key.epsilon_g, key.setting, key.metric


@dataclass(frozen=True)
class Agreement:
    """How many numbers of a table are as printed, to the printed digit."""

    equal: int
    different: int
    unprinted: int
    """Numbers here that the published table lacks, or the other way round."""

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
    """Compare cell by cell; Table 6's attacks are told apart by name."""
    theirs = {_full(key): cell for key, cell in published.items()}
    equal = different = unprinted = 0
    for key, cell in ours.items():
        other = theirs.get(_full(key))
        if other is None or cell.value is None or other.value is None:
            unprinted += 1
        elif half_up(cell.value) == half_up(other.value):
            equal += 1
        else:
            different += 1
    return Agreement(equal, different, unprinted)


def _full(key: Key) -> tuple[str, ...]:
    return (key.evaluation, *map(str, same(key)))


def comparison(ours: Mapping[Key, Cell], published: Mapping[Key, Cell], title: str) -> Table:
    """One line per (model, dataset, eps_g, setting): ours, published and their difference for
    each metric."""
    mine = {same(key): cell for key, cell in ours.items()}
    theirs = {same(key): cell for key, cell in published.items()}
    lines = list(dict.fromkeys(match[:4] for match in [*mine, *theirs]))
    rows = []
    for model in models_in_order(line[0] for line in lines):
        for dataset in datasets_in_order(line[1] for line in lines):
            for epsilon_g in sorted({line[2] for line in lines}):
                for setting in in_order((line[3] for line in lines), SETTINGS):
                    line = (model, dataset, epsilon_g, setting)
                    if line in lines:
                        rows.append((_labels(line), _numbers(line, mine, theirs)))
    header = [(metric, who) for metric in METRICS for who in ("ours", "published", "difference")]
    return Table(
        title,
        ("Model", "Dataset", "eps_g", "Setting"),
        tuple(header),
        tuple(rows),
        ("difference = ours - published, in points; a dash where one side has no number",),
        complete=all(cell.complete for cell in ours.values()),
    )


def _labels(line: tuple[str, str, float, str]) -> tuple[str, ...]:
    return line[0], line[1], strength_name(line[2]), line[3]


def _numbers(
    line: tuple[str, str, float, str], mine: Mapping[Match, Cell], theirs: Mapping[Match, Cell]
) -> tuple[Entry, ...]:
    entries = []
    for metric in METRICS:
        a, b = (side.get((*line, metric)) for side in (mine, theirs))
        entries += [Entry(number(cell) if cell else ABSENT) for cell in (a, b)]
        entries.append(Entry(_difference(a, b)))
    return tuple(entries)


def _difference(ours: Cell | None, theirs: Cell | None) -> str:
    if ours is None or theirs is None or ours.value is None or theirs.value is None:
        return ABSENT
    return f"{half_up(ours.value - theirs.value):+}"
