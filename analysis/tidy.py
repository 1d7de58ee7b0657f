"""Tables as tidy data: one row per number, with the columns of the published files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.cells import Cell, Key
from analysis.derived import Tested
from analysis.formats import unformulated
from core.config import ConfigError, nearest

WRITERS: dict[str, Callable[[pd.DataFrame, Path], object]] = {
    ".parquet": lambda frame, path: frame.to_parquet(path, index=False),
    ".csv": lambda frame, path: path.write_text(comma_separated(frame), "utf-8"),
}
"""Suffix -> writer of `export_frame`."""
COLUMNS = ["model", "dataset", "epsilon_g", "setting", "metric", "value", "n", "seeds"]
"""The first columns; std, state and columns that only some sources have follow."""


def comma_separated(frame: pd.DataFrame) -> str:
    """A frame as CSV, with text that no spreadsheet takes for a formula."""
    texts = frame.select_dtypes(["object", "string"]).columns
    safe = {name: frame[name].map(_safe) for name in texts}
    return frame.assign(**safe).to_csv(index=False, lineterminator="\n")


def _safe(value: Any) -> Any:
    return unformulated(value) if isinstance(value, str) else value


def tidy_cells(found: Mapping[Key, Cell]) -> pd.DataFrame:
    """A row per cell: COLUMNS, std and state; variant and eval_id if they differ between cells,
    norm if some are not l-inf.

    epsilon_g: in 255ths, in any norm. value: in percent with all digits, empty if not measured. n:
    number of images. state: 'done', or why the number is incomplete.
    """
    table = pd.DataFrame([_row(key, cell) for key, cell in found.items()])
    constant = [name for name in ("variant", "eval_id") if table[name].nunique() == 1]
    return table.drop(columns=constant + ["norm"] * bool((table["norm"] == "linf").all()))


def _row(key: Key, cell: Cell) -> dict[str, Any]:
    return {
        "model": key.model,
        "dataset": key.dataset,
        "epsilon_g": f"{key.epsilon_g:g}",
        "setting": key.setting,
        "metric": key.metric,
        "value": None if cell.value is None else round(cell.value, 10),
        "n": " to ".join(map(str, cell.n)),
        "seeds": cell.measured if cell.over_seeds else "",
        "std": None if cell.std is None else round(cell.std, 10),
        "state": _state(cell),
        "norm": key.norm,
        "variant": key.variant,
        "eval_id": key.evaluation,
    }


def _state(cell: Cell) -> str:
    if cell.complete:
        return "done"
    part = f"{cell.measured} of {cell.asked} {cell.unit}"
    state = cell.state if cell.state != "done" else "unequal"
    return f"{state} ({part})" if cell.asked > 1 else state


def tidy_tests(tests: Iterable[Tested]) -> pd.DataFrame:
    """Table 9 with one row per statistic and all digits: COLUMNS and `statistic`.

    model and dataset are 'all', setting is 'sched-fix', n is the number of pairs.
    """
    rows = []
    for tested in tests:
        found = asdict(tested.test) if tested.test else {"t": None, "p": None}
        found.pop("n", None)
        for name, value in found.items():
            rows.append(
                {
                    "model": "all",
                    "dataset": "all",
                    "epsilon_g": f"{tested.strength.in_255ths:g}",
                    "setting": "sched-fix",
                    "metric": tested.metric,
                    "value": value,
                    "n": tested.pairs - len(tested.missing),
                    "seeds": "",
                    "statistic": name,
                    "state": "done" if not tested.missing else f"{len(tested.missing)} incomplete",
                    "variant": tested.variant,
                }
            )
    table = pd.DataFrame(rows)
    return table if table["variant"].any() else table.drop(columns="variant")


def export_frame(frame: pd.DataFrame, path: str | Path) -> Path:
    """Write a frame (values, curves, epochs, ...) as Parquet or CSV, by the suffix of `path`, which
    is returned. Raises ConfigError for another suffix.
    """
    path = Path(path)
    if path.suffix not in WRITERS:
        raise ConfigError(f"{path}: unknown suffix '{path.suffix}'{nearest(path.suffix, WRITERS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[path.suffix](frame, path)
    return path
