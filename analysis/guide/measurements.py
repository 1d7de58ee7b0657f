"""Five accuracies of each configuration on each dataset, in one frame: from the published file,
files of the same form, or runs.

Names are the published ones and accuracies are fractions, as in that file. Expected cells that were
not measured have rows, too, with the cause in state and reason.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources.abc import Traversable
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.csv_lines import number, read_lines
from analysis.frames import Frame
from analysis.guide.design import (
    CELL,
    DATASETS,
    LOSSES,
    METRICS,
    PROTOCOL,
    PROTOCOLS,
    Cell,
    facts,
    known_facts,
    published_name,
    shipped,
)
from core.config import ConfigError, nearest
from core.config.datasets import entries
from core.config.registry import backbone_problem

COLUMNS = dict(
    zip(("clean_acc", "Linf_acc", "L2_acc", "L1_acc", "common_acc"), METRICS, strict=True)
)
"""Column of the published file -> metric."""
KEYS = ("ft_strategy", "backbone", "loss_function", "dataset")
"""Columns of the published file that identify a cell, in the order of CELL."""

CLOSE = 1e-6
"""Tolerance for a file's own sums and products."""

FRAME = Frame(
    "guide",
    {
        **dict.fromkeys(CELL, "str"),
        **dict.fromkeys((*METRICS, "sum", "geom"), "float64"),
        "n": "Int64",
        "name": "str",
        "size": "str",
        "type": "str",
        "pretraining": "str",
        "state": "str",
        "reason": "str",
        "run_id": "str",
    },
)
"""geom: the product of the five accuracies, as in the published file. n: number of images."""

Row = dict[str, Any]


def published() -> pd.DataFrame:
    """The 1,440 published configurations."""
    return read([shipped("results.csv")])


def is_guide(path: str | Path) -> bool:
    """Whether a CSV file has columns that only the published file has."""
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            header = next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError):
        return False  # reported when the file is read
    return bool({*KEYS, *COLUMNS} - {"backbone", "dataset"} & {*header})


def read(files: Sequence[Path | Traversable], asked: Iterable[Cell] | None = None) -> pd.DataFrame:
    """CSV files with the columns of the published one; sum, geom (which must agree) and properties
    of backbones are computed and may be missing.

    asked: the expected cells; by default, for each protocol, every combination of its backbones,
    losses and datasets. Raises ConfigError, naming file and line, for missing columns, unknown
    names, percent instead of fractions, wrong sums or products, and duplicate cells.
    """
    found: dict[Cell, tuple[str, Row]] = {}
    for file in files:
        for where, row in _rows(file):
            cell = Cell(*(row[name] for name in CELL))
            if cell in found:
                raise ConfigError(f"{where}: {', '.join(cell)} is already in {found[cell][0]}")
            found[cell] = where, row
    if not found:
        raise ConfigError(f"{', '.join(map(str, files))}: no measurements")
    wanted = dict.fromkeys(asked if asked is not None else combinations(found))
    lacking = (_missing(cell, "not in the source") for cell in wanted if cell not in found)
    kept = (row for cell, (_, row) in found.items() if asked is None or cell in wanted)
    return build([*kept, *lacking])


def combinations(found: Iterable[Cell]) -> Iterator[Cell]:
    """For each protocol, every combination of its backbones, losses and datasets."""
    cells = [*found]
    for protocol in dict.fromkeys(cell.protocol for cell in cells):
        mine = [cell for cell in cells if cell.protocol == protocol]
        levels = [dict.fromkeys(values) for values in zip(*mine, strict=True)]
        yield from (Cell(*one) for one in product(*levels))


def records(frame: pd.DataFrame) -> list[Row]:
    """The rows of a frame as dictionaries."""
    found: Any = frame.to_dict("records")
    return list(found)


def _rows(file: Path | Traversable) -> Iterator[tuple[str, Row]]:
    for where, line in read_lines(file, (*KEYS, *COLUMNS)):
        yield where, _row(line, where)


def _row(line: Mapping[str, str], where: str) -> Row:
    cell = Cell(*(CHECKS[name](line[name], where) for name in KEYS))
    numbers = {ours: _fraction(theirs, line[theirs], where) for theirs, ours in COLUMNS.items()}
    lacking = [name for name in METRICS if numbers[name] is None]
    if not lacking:
        _agree(line, [value for value in numbers.values() if value is not None], where)
    reason = f"no {', '.join(lacking)} in {where}" if lacking else ""
    return _filled(cell, numbers, state="missing" if lacking else "done", reason=reason)


def _agree(line: Mapping[str, str], values: Sequence[float], where: str) -> None:
    """Raise ConfigError if a line's own sum or product is not that of its accuracies: one of them
    was changed, and the reader must find out which."""
    for column, expected in (("sum", sum(values)), ("geom", math.prod(values))):
        text = line.get(column)
        if text and not math.isclose(number(text), expected, rel_tol=CLOSE, abs_tol=CLOSE):
            what = "sum" if column == "sum" else "product"
            raise ConfigError(
                f"{where}: {column}: expected {expected:.6g}, the {what} of its five accuracies, "
                f"got '{text}'"
            )


def _filled(cell: Cell, numbers: Mapping[str, float | None], **about: Any) -> Row:
    return {**cell._asdict(), **numbers, "n": None, "run_id": "", **about}


def _missing(cell: Cell, reason: str) -> Row:
    return _filled(cell, dict.fromkeys(METRICS), state="missing", reason=reason)


def _fraction(column: str, text: str, where: str) -> float | None:
    if not text:
        return None
    value = number(text)
    if 1 < value <= 100:
        raise ConfigError(
            f"{where}: {column}: expected a fraction in [0, 1], got percent ('{text}')"
        )
    if not 0 <= value <= 1:
        raise ConfigError(f"{where}: {column}: expected a fraction in [0, 1], got '{text}'")
    return value


def _protocol(text: str, where: str) -> str:
    if PROTOCOL.fullmatch(text):
        return text
    raise ConfigError(f"{where}: unknown ft_strategy '{text}'{nearest(text, PROTOCOLS)}")


def _backbone(text: str, where: str) -> str:
    if text in known_facts():
        return text
    if backbone_problem(text) is None:
        return published_name(text)
    raise ConfigError(f"{where}: unknown backbone '{text}'{nearest(text, known_facts())}")


def _loss(text: str, where: str) -> str:
    if text in LOSSES:
        return text
    raise ConfigError(f"{where}: unknown loss_function '{text}'{nearest(text, LOSSES)}")


def _dataset(text: str, where: str) -> str:
    name = DATASETS.get(text, text)
    if name in DATASETS.values() or name in entries():
        return name
    raise ConfigError(f"{where}: unknown dataset '{text}'{nearest(text, DATASETS.values())}")


CHECKS = {
    "ft_strategy": _protocol,
    "backbone": _backbone,
    "loss_function": _loss,
    "dataset": _dataset,
}


def build(rows: Iterable[Row]) -> pd.DataFrame:
    """The frame of these rows, sorted by protocol, dataset and loss in the published order; further
    ones in the order found."""
    found = [{**row, **facts(row["backbone"])._asdict()} for row in rows]
    numbers = pd.DataFrame([{name: row[name] for name in METRICS} for row in found], dtype=float)
    table = pd.DataFrame(found).assign(
        **{name: numbers[name] for name in METRICS},
        sum=numbers.sum(axis=1, skipna=False),
        geom=numbers.prod(axis=1, skipna=False),
    )
    orders = {"protocol": PROTOCOLS, "loss": LOSSES, "dataset": tuple(DATASETS.values())}
    placed = table.sort_values(
        ["protocol", "dataset", "loss"], key=lambda column: _places(column, orders), kind="stable"
    )
    return FRAME.typed(placed.reset_index(drop=True))


def _places(column: pd.Series, orders: Mapping[str, Sequence[str]]) -> pd.Series:
    known = orders[str(column.name)]
    levels = [*known, *(v for v in dict.fromkeys(column) if v not in known)]
    return column.map({value: place for place, value in enumerate(levels)})
