"""Cells -> tables in the paper's layout, independent of the output format.

A table never hides what is missing: incomplete cells have a mark and a note, and `complete` is
False.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.cells import Cell, Key
from analysis.names import SETTINGS, paper_order
from analysis.rounding import DIGITS, half_up

PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
DAGGER = "\N{DAGGER}"
DOUBLE_DAGGER = "\N{DOUBLE DAGGER}"
ABSENT = "\N{EN DASH}"
"""Shown in cells that no run was asked for."""
NAMED = 4
"""Number of cells that a note names before 'and k more'."""

TITLES = {
    "model": "Model",
    "setting": "Setting",
    "strength": "eps_g",
    "variant": "Variant",
    "evaluation": "Attack",
    "dataset": "Dataset",
    "metric": "Metric",
}


@dataclass(frozen=True)
class Entry:
    """One number of a table as text, followed by `mark`."""

    text: str
    bold: bool = False
    mark: str = ""
    key: Key | None = None
    cell: Cell | None = None


@dataclass(frozen=True)
class Table:
    """A laid-out table. stub: headings of the row labels. header: for each column its levels of
    headings. rows: (labels, entries) of each row."""

    title: str
    stub: tuple[str, ...]
    header: tuple[tuple[str, ...], ...]
    rows: tuple[tuple[tuple[str, ...], tuple[Entry, ...]], ...]
    notes: tuple[str, ...] = ()
    complete: bool = True
    grouped: bool = True
    """Whether neighbouring rows with the same first label form a group, with a rule after it."""


def pivot(
    cells: Mapping[Key, Cell],
    title: str,
    *,
    rows: Sequence[str] = ("model", "setting"),
    columns: Sequence[str] = ("dataset", "metric"),
    settings: Sequence[str] = SETTINGS,
    notes: Sequence[str] = (),
    bold: Collection[Key] | None = None,
    marked: Collection[Key] = (),
    digits: int = DIGITS,
) -> Table:
    """Lay out cells, with the key fields `rows` as row labels and `columns` as column headings.

    bold: the keys to set in bold, by default the `winners`. marked: keys that violate a sanity
    gate. digits: decimals.
    """
    if len({key.variant for key in cells}) > 1:
        rows = [*rows[:-1], "variant", rows[-1]]
    placed = {(_pick(key, rows), _pick(key, columns)): key for key in cells}
    across = paper_order((column for _, column in placed), columns, settings)
    best = winners(cells, digits) if bold is None else bold
    entries = {
        key: Entry(
            number(cell, digits),
            key in best,
            DAGGER * (not cell.complete) + DOUBLE_DAGGER * (key in marked),
            key,
            cell,
        )
        for key, cell in cells.items()
    }
    body = []
    for row in paper_order((row for row, _ in placed), rows, settings):
        keys = (placed.get((row, column)) for column in across)
        shown = tuple(entries[key] if key else Entry(ABSENT) for key in keys)
        body.append((tuple(map(str, row)), shown))
    return Table(
        title,
        stub=tuple(TITLES[name] for name in rows),
        header=tuple(_heading(cells, columns, column) for column in across),
        rows=tuple(body),
        notes=(*notes, *problems(cells)),
        complete=all(cell.complete for cell in cells.values()),
    )


def cell_name(key: Key) -> str:
    """'SWIN/Cars/sched at 8/255'."""
    where = f"{key.model}/{key.dataset}/{key.setting}{bracketed(key.variant)}"
    return f"{where} at {key.strength}" if key.epsilon_g else where


def bracketed(variant: str) -> str:
    """' [optim.lr=0.001]', to follow a name; '' without a variant."""
    return f" [{variant}]" if variant else ""


def number(cell: Cell, digits: int = DIGITS) -> str:
    """'45.12'; '45.12 +- 1.20' for several seeds; '45.12 (1/2)' if some are missing; the state if
    there is no number."""
    if cell.value is None:
        return cell.state
    text = str(half_up(cell.value, digits))
    if cell.std is not None:
        text += f" {PLUS_MINUS} {half_up(cell.std, digits)}"
    return text if cell.measured == cell.asked else f"{text} ({cell.measured}/{cell.asked})"


def winners(cells: Mapping[Key, Cell], digits: int = DIGITS) -> set[Key]:
    """The best among keys that differ only in the setting, if all of them are complete.

    Numbers that are printed equal tie. Standard fine-tuning does not compete, as it never saw an
    attack; nor does a cell with a constant prediction (in any seed), which no attack can change. 0
    is never the best.
    """
    best = set()
    for keys in rivals(cells):
        values = {key: cells[key].value for key in keys if cells[key].complete}
        shown = {key: half_up(value, digits) for key, value in values.items() if value is not None}
        if len(keys) > 1 and len(shown) == len(keys):
            able = {key: value for key, value in shown.items() if not cells[key].constant}
            best |= {key for key, value in able.items() if 0 < value == max(able.values())}
    return best


def pairs(found: Iterable[Key]) -> list[tuple[Key, Key]]:
    """(fix, sched) keys of the same cell."""
    keys = set(found)
    return [
        (key, other)
        for key in found
        if key.setting == "fix" and (other := key._replace(setting="sched")) in keys
    ]


def rivals(cells: Iterable[Key]) -> list[list[Key]]:
    """Groups of keys that compete: equal except for the setting. Without `standard` and `none`
    (networks that are not trained)."""
    groups = defaultdict(list)
    for key in cells:
        if key.setting not in ("none", "standard"):
            groups[key._replace(setting="")].append(key)
    return list(groups.values())


def problems(cells: Mapping[Key, Cell]) -> list[str]:
    """One note per reason why cells are incomplete, naming the first ones."""
    by_reason: dict[str, dict[str, None]] = defaultdict(dict)
    for key, cell in cells.items():
        if not cell.complete:
            by_reason[_reason(cell)][cell_name(key)] = None
    return [f"{DAGGER} {reason}: {some(list(names))}" for reason, names in by_reason.items()]


def _reason(cell: Cell) -> str:
    if cell.over_seeds and len(cell.n) > 1:
        return f"seeds measured on different numbers of images ({cell.n[0]} to {cell.n[-1]})"
    reason = f"{cell.state} ({cell.reason})" if cell.reason else cell.state
    some = f"{cell.measured} of {cell.asked} {cell.unit}, " if cell.asked > 1 else ""
    return some + reason


def some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _pick(key: Key, names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(getattr(key, name) for name in names)


def _heading(
    cells: Mapping[Key, Cell], columns: Sequence[str], column: tuple[Any, ...]
) -> tuple[str, ...]:
    """The levels of a column's heading, datasets with their number of images."""
    levels = []
    for name, value in zip(columns, column, strict=True):
        counts = _images(cells, value) if name == "dataset" else ""
        levels.append(str(value) + counts)
    return tuple(levels)


def _images(cells: Mapping[Key, Cell], dataset: str) -> str:
    counts = {n for key, cell in cells.items() if key.dataset == dataset for n in cell.n}
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    return f" (n = {low})" if low == high else f" (n = {low} to {high})"
